"""What a bubblewrap sandbox is, as bwrap's arguments: what is shared, what is shown, what is made.

The inside is the same in every run (`PLACE`, the variables, the files of /etc), so that what a CLI
tells its provider about its surroundings is the same bytes and prompts stay cacheable. Of the host
it shows /usr, the programs, certificates, and one socket.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from polydev.models.places import Launch, Place
from polydev.proc import child_environment

PLACE = Place(
    home=PurePosixPath("/home/user"),
    workspace=PurePosixPath("/workspace"),
    programs=PurePosixPath("/opt/polydev"),
    egress_socket=PurePosixPath("/run/polydev/egress.sock"),
    egress_port=8080,
    authority=PurePosixPath("/etc/polydev/authority.pem"),
)
HOSTNAME = "sandbox"
USER_ID = 1000
OLDEST_VERSION = (0, 5, 0)  # the first with --perms and --clearenv

# Waits inside for a first, empty line, and ends with its input. Not bwrap's own --block-fd: until
# that is released, what is inside would outlive a bwrap that is killed with us.
READY = b"ready"
_HOLD = f'echo {READY.decode()}; IFS= read -r _ && exec "$@"'

# In memory, so each is a bound on what one CLI can take of it.
_HOME_BYTES = _WORKSPACE_BYTES = _TEMPORARY_BYTES = 2**30
_SHARED_MEMORY_BYTES = 2**28
_LINKED_OR_BOUND = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# /etc/ssl and /etc/pki also hold private keys, and root's sandbox could read them.
_FROM_ETC = (
    "alternatives",
    "crypto-policies",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "pki/ca-trust/extracted",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "ssl/certs",
    "ssl/openssl.cnf",
)
# What a graphical session reads beyond that: where fonts are and what was found in them, defaults
# of the toolkit and the browser. Configuration only; nothing here tells of a person.
_DESKTOP_SHOWS = (
    "/etc/X11/rgb.txt",
    "/etc/dbus-1",
    "/etc/firefox-esr",
    "/etc/fonts",
    "/etc/gtk-3.0",
    "/etc/mime.types",
    "/etc/xdg/xfce4",
    "/var/cache/fontconfig",
)
_ETC: Mapping[str, str] = {
    "passwd": f"user:x:{USER_ID}:{USER_ID}:user:{PLACE.home}:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": f"user:x:{USER_ID}:\nnogroup:x:65534:\n",
    "hosts": f"127.0.0.1 localhost {HOSTNAME}\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n"
    "services: files\nprotocols: files\n",
    "resolv.conf": "",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What this version of bwrap can do beyond the oldest that is supported."""

    sizes: bool  # --size
    no_nested_namespaces: bool  # --disable-userns

    @classmethod
    def of(cls, version: tuple[int, ...]) -> "Features":
        return cls(sizes=version >= (0, 7), no_nested_namespaces=version >= (0, 8))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plumbing:
    """Descriptors that tie bwrap to us, and a way to hand it content without a file.

    info: bwrap writes the pid of the sandbox's first process.
    """

    info: int
    content: Callable[[bytes], int]


def arguments(
    *,
    launch: Launch,
    programs: Path,
    authority: bytes,
    egress_socket: Path,
    plumbing: Plumbing,
    features: Features,
    root: Path = Path("/"),
) -> list[str]:
    """The options of bwrap, in the order in which it carries them out."""
    return [
        *_separation(plumbing, features),
        *_system(root),
        *(_desktop(root) if launch.desktop else ()),
        *_memory(features),
        *("--ro-bind", str(programs), str(PLACE.programs)),
        *("--perms", "0755", "--dir", str(PLACE.egress_socket.parent)),
        *("--ro-bind", str(egress_socket), str(PLACE.egress_socket)),
        *_made("0444", PLACE.authority, authority, plumbing),
        *_files(launch, plumbing),
        *_environment(launch),
        *("--remount-ro", "/"),
        *("--chdir", str(PLACE.workspace)),
    ]


def held_back(argv: Sequence[str]) -> tuple[str, ...]:
    """`argv` behind a shell that says `READY` and goes on when it is sent an empty line."""
    return ("/bin/sh", "-c", _HOLD, "sh", *argv)


def host_path(inside: str, programs: Path) -> Path | None:
    """Where the host keeps what the sandbox shows at `inside`; None for what only it has."""
    path = PurePosixPath(inside)
    if path.is_relative_to(PLACE.programs):
        return programs / path.relative_to(PLACE.programs)
    shown = ("usr", *_LINKED_OR_BOUND)
    return Path(path) if len(path.parts) > 1 and path.parts[1] in shown else None


def file_under_home(name: str) -> PurePosixPath:
    """`name`, as launches give it; refuses what would leave HOME."""
    return _relative(name, "HOME")


def _relative(name: str, directory: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} is not a path under {directory}")
    return path


def _separation(plumbing: Plumbing, features: Features) -> Iterator[str]:
    yield from ("--unshare-user", "--uid", str(USER_ID), "--gid", str(USER_ID))
    yield from ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net")
    yield from ("--unshare-cgroup-try", "--hostname", HOSTNAME)
    yield from ("--cap-drop", "ALL", "--new-session", "--die-with-parent")
    yield from ("--info-fd", str(plumbing.info))
    if features.no_nested_namespaces:
        yield "--disable-userns"


def _system(root: Path) -> Iterator[str]:
    yield from ("--ro-bind", "/usr", "/usr")
    for name in _LINKED_OR_BOUND:
        host = root / name
        if host.is_symlink():
            yield from ("--symlink", str(host.readlink()), f"/{name}")
        elif host.is_dir():
            yield from ("--ro-bind", f"/{name}", f"/{name}")
    for name in _FROM_ETC:
        if (root / "etc" / name).exists():
            yield from ("--ro-bind", f"/etc/{name}", f"/etc/{name}")
    # Read-only: when root runs us, root's sandbox owns the switches in /proc/sys.
    yield from ("--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev")


def _desktop(root: Path) -> Iterator[str]:
    for path in _DESKTOP_SHOWS:
        if (root / path.lstrip("/")).exists():
            yield from ("--ro-bind", path, path)


def _memory(features: Features) -> Iterator[str]:
    for path, mode, size in (
        (PurePosixPath("/dev", "shm"), "1777", _SHARED_MEMORY_BYTES),
        (PurePosixPath("/", "tmp"), "1777", _TEMPORARY_BYTES),
        (PLACE.home, "0700", _HOME_BYTES),
        (PLACE.workspace, "0700", _WORKSPACE_BYTES),
    ):
        sized = ("--size", str(size)) if features.sizes else ()
        yield from ("--perms", mode, *sized, "--tmpfs", str(path))
    yield from ("--remount-ro", "/dev")


def _files(launch: Launch, plumbing: Plumbing) -> Iterator[str]:
    for name, text in _ETC.items():
        yield from _made("0444", PurePosixPath("/etc", name), text.encode(), plumbing)
    for name, data in launch.etc.items():
        yield from _made("0444", PurePosixPath("/etc") / _relative(name, "/etc"), data, plumbing)
    made: set[PurePosixPath] = set()
    for name, content in launch.files.items():
        path = file_under_home(name)
        for parent in reversed(path.parents[:-1]):
            if parent not in made:
                yield from ("--perms", "0700", "--dir", str(PLACE.home / parent))
                made.add(parent)
        mode = "0700" if name in launch.executable else "0600"
        yield from _made(mode, PLACE.home / path, content.reveal(), plumbing)


def _made(mode: str, path: PurePosixPath, content: bytes, plumbing: Plumbing) -> tuple[str, ...]:
    return ("--perms", mode, "--file", str(plumbing.content(content)), str(path))


def _environment(launch: Launch) -> Iterator[str]:
    yield "--clearenv"
    for name, value in {**child_environment(PLACE.home), **launch.environment}.items():
        yield from ("--setenv", name, value)
