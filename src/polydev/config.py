"""Settings: one section per subsystem, passed to its constructor.

Read from the environment (`POLYDEV_…`, sections joined by `__`: `POLYDEV_EGRESS__REDIRECT`) and
from `config.toml` in the data directory; the environment wins. `docs/settings.md` lists every one
of them, and a test holds that list complete.
"""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from polydev.errors import SetupProblem
from polydev.models.proxies import ProxyRange


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(Section):
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8484, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    body_limit_bytes: int = Field(
        32 * 2**20, gt=0, description="Largest request body that is read."
    )
    hosts: tuple[str, ...] = Field(
        (),
        description="Other host names by which browsers may reach the dashboard, the one to show "
        "first; a JSON list in the environment. Loopback and `host` are always admitted.",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with the certificate chain; needed beyond loopback."
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's key.")
    behind_tls_proxy: bool = Field(
        False, description="A proxy that speaks TLS stands before it; allows plain HTTP to it."
    )


class RunSettings(Section):
    concurrent: int = Field(8, gt=0, description="Runs executed at the same time.")
    queue: int = Field(256, ge=0, description="Runs that may wait for a place.")
    timeout_seconds: float = Field(600, gt=0, description="Longest time a run may take.")
    prompt_limit_bytes: int = Field(
        8 * 2**20, gt=0, description="Largest prompt: all texts and images of a request together."
    )
    silence_seconds: float = Field(
        180, gt=0, description="A CLI that says nothing for this long is stopped."
    )
    keep_text_days: float = Field(
        7, ge=0, le=36500, description="How long texts of runs are kept, sealed; 0 keeps none."
    )


class KeySettings(Section):
    requests_per_minute: int = Field(120, gt=0, description="Rate limit of a new key.")
    concurrent_runs: int = Field(256, gt=0, description="Runs that a new key may have at once.")


class SandboxSettings(Section):
    kind: Literal["bubblewrap", "none"] = Field(
        "bubblewrap",
        description="`none` runs CLIs unprotected, for machines without namespaces.",
    )


class EgressSettings(Section):
    redirect: str = Field(
        "", description="`host:port` that answers for every provider name (a simulator)."
    )
    upstream_ca: Path | None = Field(
        None, description="PEM file that egress trusts in place of the system's authorities."
    )
    proxy: SecretStr | None = Field(
        None,
        description="Outbound proxy of every connection that has none of its own: "
        "`http://`, `https://` or `socks5://`, with `user:password@` if need be. Of a range of "
        "ports (`http://proxy.example:10001-10100`) each connection gets one and keeps it.",
    )

    @field_validator("proxy")
    @classmethod
    def _address(cls, value: SecretStr | None) -> SecretStr | None:
        if value:
            ProxyRange.parse(value.get_secret_value())
        return value or None

    @field_validator("redirect")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        if value:
            host, colon, port = value.rpartition(":")
            if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
                raise ValueError("must be host:port")
        return value


class StoreSettings(Section):
    url: str = Field("", description="SQLAlchemy URL; empty means SQLite in the data directory.")


class KeeperSettings(Section):
    ahead_seconds: float = Field(
        900,
        ge=0,
        description="How long before its expiry an access token is refreshed; up to half as long "
        "again, another for each connection.",
    )
    rest_seconds: float = Field(
        10, ge=0, description="How long a refresh that failed is not tried again."
    )
    check_seconds: float = Field(30, gt=0, description="How often expiries are looked at.")


class LoginSettings(Section):
    seconds: float = Field(600, gt=0, description="How long a login may take.")
    concurrent: int = Field(20, gt=0, description="Logins that may be under way at once.")


class DesktopSettings(Section):
    standby: int = Field(
        0,
        ge=0,
        le=8,
        description="Desktops for logins that are started before they are asked for, about 550 MB "
        "of memory each.",
    )


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level.")
    json_lines: bool = Field(False, description="One JSON object per line instead of plain text.")


def default_data_directory() -> Path:
    """`$XDG_DATA_HOME/polydev`, or `~/.local/share/polydev`."""
    base = os.environ.get("XDG_DATA_HOME") or ""
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return root / "polydev"


class Settings(BaseSettings):
    """All settings. Use `load_settings`, which answers bad values with a clear error."""

    model_config = SettingsConfigDict(
        env_prefix="POLYDEV_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    data: Path = Field(
        default_factory=default_data_directory, description="Where everything is kept."
    )
    programs: Path | None = Field(
        None, description="Where the CLIs are installed; `programs` in the data directory if unset."
    )
    master_key: SecretStr | None = Field(
        None,
        description="Base64 of 32 bytes; several, separated by commas, while a rotation is under "
        "way (the first one seals). Without it a key file is made in the data directory.",
    )
    server: ServerSettings = ServerSettings()
    runs: RunSettings = RunSettings()
    keys: KeySettings = KeySettings()
    sandbox: SandboxSettings = SandboxSettings()
    egress: EgressSettings = EgressSettings()
    store: StoreSettings = StoreSettings()
    keeper: KeeperSettings = KeeperSettings()
    logins: LoginSettings = LoginSettings()
    desktop: DesktopSettings = DesktopSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        data = os.environ.get("POLYDEV_DATA")
        directory = Path(data) if data else default_data_directory()
        file = TomlConfigSettingsSource(settings_cls, directory / "config.toml")
        return init_settings, env_settings, file


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process.

    Raises SetupProblem, naming each setting that is wrong and how.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'settings'}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise SetupProblem(
            f"The settings contain a mistake: {wrong}.",
            remedy="Correct the POLYDEV_… variable or config.toml; docs/settings.md lists them.",
        ) from None
    except (OSError, ValueError) as error:
        raise SetupProblem(
            f"config.toml cannot be read: {error}.", remedy="Correct or remove it."
        ) from error
