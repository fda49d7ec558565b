"""What a CLI leaves in its HOME while one logs in: the files of the login, the links it opened."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from polydev.core.home_files import read_file, read_object
from polydev.errors import CredentialUnreadable
from polydev.models.places import LINKS_FILE
from polydev.providers.base import Provider
from polydev.secret import Secret

Files = Mapping[str, Secret[bytes]]
_MOST_LINKS = 20


class LoginFiles:
    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    @property
    def paths(self) -> tuple[PurePosixPath, ...]:
        return (self._provider.credential_file, *self._provider.companion_files)

    def read(self, home: Path) -> Files:
        """The files of a whole login; empty until there is one."""
        content = read_object(home, self._provider.credential_file)
        if content is None:
            return {}
        files = {str(self._provider.credential_file): content}
        for path in self._provider.companion_files:
            companion = read_file(home, path)
            if companion is not None:
                files[str(path)] = companion
        try:
            self._provider.read_credential(files)
        except CredentialUnreadable:
            return {}
        return files


class Links:
    """The addresses that a CLI had a browser open."""

    def __init__(self) -> None:
        self._seen = 0

    def new(self, home: Path) -> list[str]:
        """Those that were not given before; at most twenty in all."""
        content = read_file(home, LINKS_FILE)
        if content is None:
            return []
        *links, _ = content.reveal().decode(errors="replace").split("\n")
        new = links[self._seen : _MOST_LINKS]
        self._seen += len(new)
        return new
