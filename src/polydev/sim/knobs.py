"""What can be turned while the simulator runs, per account or for all."""

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_TOKEN_LIFETIME_SECONDS = 8 * 3600.0


class Knobs(BaseModel):
    """How an account behaves; the World has defaults and each account may override any of them.

    Times are seconds. `cut_after_chunks` breaks the connection after that many pieces of text;
    `limit_reached` is an exhausted window, `rate_limited` a short 429, `overloaded` the vendor's
    overload answer, `server_error` the status of an answer that every model request gets.
    `websocket_refused` makes codex fall back to POST.

    Those of logins: `login_denied` refuses whatever the person answers, `login_popup` signs in in a
    window of its own, `login_page_seconds` and `login_token_seconds` make each page and the trade
    of a code for tokens late, the lifetimes are of authorization codes and of device codes, and
    `device_poll_seconds` is how often a CLI is told to ask. `device_login_disabled` answers as for
    an account or workspace that does not allow device codes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    first_byte_seconds: float = Field(0, ge=0, le=600)
    pace_seconds: float = Field(0, ge=0, le=600)
    cut_after_chunks: int | None = Field(None, ge=0)
    limit_reached: bool = False
    limit_resets_in_seconds: float = Field(3600, ge=0)
    rate_limited: bool = False
    retry_after_seconds: int = Field(2, ge=0)
    overloaded: bool = False
    server_error: int | None = Field(None, ge=500, le=599)
    websocket_refused: bool = False
    tokens_rejected: bool = False
    refresh_denied: bool = False
    refresh_delay_seconds: float = Field(0, ge=0, le=600)
    token_lifetime_seconds: float = Field(DEFAULT_TOKEN_LIFETIME_SECONDS, ge=0)
    login_denied: bool = False
    login_popup: bool = False
    login_page_seconds: float = Field(0, ge=0, le=600)
    login_token_seconds: float = Field(0, ge=0, le=600)
    login_code_lifetime_seconds: float = Field(600, ge=0)
    device_code_lifetime_seconds: float = Field(900, ge=0)
    device_poll_seconds: int = Field(5, ge=0, le=60)
    device_login_disabled: bool = False
