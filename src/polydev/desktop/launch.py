"""What is started in a desktop's sandbox, and the command that is handed to it. Pure.

The desktop is the same for everybody, so one may be ready before it is asked for: a login is
handed over to it as files under HOME and a line of input. The files of the desktop lie in a
directory of their own there, apart from those of the CLIs; the browser's profile lies in /tmp.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from polydev.desktop.browser import POLICY_FILE, policies
from polydev.models.egress import EgressMode, EgressPolicy
from polydev.models.places import Launch, Place
from polydev.proc import child_environment
from polydev.secret import Secret

_OWN = PurePosixPath(".polydev")
VNC_SOCKET = _OWN / "vnc.sock"
COMMAND = _OWN / "command"
UPSTREAM_AUTHORITY = _OWN / "upstream.pem"

# The browser's own TLS passes unread, to wherever a sign-in leads.
POLICY = EgressPolicy(mode=EgressMode.TUNNEL, rules=(), any_public_host=True)

_FILES = Path(__file__).with_name("files")
_EXECUTABLE = {"session": "session", "bin/sign-in": "sign-in", "bin/xdg-open": "xdg-open"}
_XFCONF = "config/xfce4/xfconf/xfce-perchannel-xml"
_PLAIN = {
    **{name: name for name in ("start.html", "user.js", "xterm.ad", "xulstore.json")},
    "config/gtk-3.0/settings.ini": "gtk.ini",
    f"{_XFCONF}/xfwm4.xml": "xfwm4.xml",
    f"{_XFCONF}/xfce4-panel.xml": "panel.xml",
}
_PATH = "/usr/local/bin:/usr/bin:/bin"
# Made up, and the same for all: D-Bus and Firefox want one.
_MACHINE_ID = b"706f6c796465760000000000000000ff\n"


def desktop_launch(place: Place, upstream_ca: bytes | None) -> Launch:
    """The desktop without a command.

    upstream_ca: the certificate of a stand-in for the whole network, trusted by the browser.
    """
    own = {
        str(_OWN / name): Secret((_FILES / file).read_bytes())
        for name, file in {**_EXECUTABLE, **_PLAIN}.items()
    }
    authority = None
    if upstream_ca is not None:
        authority = place.home / UPSTREAM_AUTHORITY
        own[str(UPSTREAM_AUTHORITY)] = Secret(upstream_ca)
    browser = policies(
        proxy_port=place.egress_port,
        start_page=(f"file://{place.home / _OWN}/start.html"),
        authority=authority,
    )
    return Launch(
        argv=("/bin/sh", str(place.home / _OWN / "session")),
        environment={"PATH": _path(place)},
        files=own,
        executable=frozenset(str(_OWN / name) for name in _EXECUTABLE),
        needs_port=True,
        desktop=True,
        etc={POLICY_FILE: browser, "machine-id": _MACHINE_ID},
    )


def command_of(cli: Launch, place: Place) -> bytes:
    """The content of `COMMAND`: the CLI and all that its environment holds, each word with a NUL."""
    environment: Mapping[str, str] = {
        **child_environment(place.home),
        **cli.environment,
        "BROWSER": str(place.home / _OWN / "bin" / "xdg-open"),
        "COLORTERM": "truecolor",
        "DISPLAY": ":0",  # its namespace has no other
        "PATH": _path(place),
        "TERM": "xterm-256color",
    }
    words = ["/usr/bin/env", "-i", *(f"{name}={value}" for name, value in environment.items())]
    return "".join(f"{word}\0" for word in [*words, *cli.argv]).encode()


def _path(place: Place) -> str:
    return f"{place.home / _OWN / 'bin'}:{_PATH}"
