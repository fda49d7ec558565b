"""Styles and scripts, from memory, under an address that changes with their contents.

`/static/VERSION/NAME`: VERSION is made of all of them, so scripts import each other by plain
relative names and a browser never mixes two versions.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

HTMX = "htmx.js"
NOVNC = "novnc"
_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOR_EVER = "public, max-age=31536000, immutable"


class Static:
    def __init__(self, others: Mapping[str, Path], folders: Mapping[str, Path]) -> None:
        """others: files that come from elsewhere, by the name they get here; may be missing.

        folders: the same for scripts that import each other; they keep their names below it.
        """
        files = {path.name: path for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}
        files |= {name: path for name, path in others.items() if path.is_file()}
        for name, folder in folders.items():
            files |= {
                f"{name}/{path.relative_to(folder).as_posix()}": path
                for path in sorted(folder.rglob("*.js"))
            }
        self._contents = {name: path.read_bytes() for name, path in files.items()}
        self._tags = {
            name: f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            for name, content in self._contents.items()
        }
        together = "".join(f"{name}{tag}" for name, tag in sorted(self._tags.items()))
        self.version = hashlib.sha256(together.encode()).hexdigest()[:16]

    def has(self, name: str) -> bool:
        return name in self._contents

    def url(self, name: str) -> str:
        return f"/static/{self.version}/{name}"

    def response(self, request: Request, version: str, name: str) -> Response:
        """Another version's address has these contents too, and is not kept."""
        content = self._contents.get(name)
        if content is None:
            raise HTTPException(404)
        headers = {
            "etag": self._tags[name],
            "cache-control": _FOR_EVER if version == self.version else "no-cache",
        }
        if self._tags[name] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_TYPES[Path(name).suffix], headers=headers)
