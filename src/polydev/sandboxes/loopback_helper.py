"""Opens sockets inside other network namespaces. Run as a script, by file.

A process with threads can enter no user namespace, and entering is for good; so this small
process forks once per request. On its socket (descriptor 3 of a SOCK_SEQPACKET pair) it takes
"number listen pid port" or "number connect pid port" and answers "number ok" with the socket, or
"number what went wrong".
It ends when the other end of the pair is closed, so with the gateway, however that ends.

The process `pid` must not be reaped meanwhile, so that its id cannot mean another one.
"""

import ctypes
import fcntl
import os
import signal
import socket
import sys

_NS_GET_USERNS = 0xB701
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
# The namespace's `lo` may not be up yet; the address is bound all the same.
_IP_FREEBIND = 15
_BACKLOG = 256
_CHILD_SECONDS = 3


def main(descriptor: int) -> None:
    control = socket.socket(fileno=descriptor)
    libc = ctypes.CDLL(None, use_errno=True)
    while True:
        request = control.recv(64)
        if not request:
            return
        child = os.fork()
        if child == 0:
            try:
                _answer(control, libc, request)
            finally:
                os._exit(0)
        os.waitpid(child, 0)


def _answer(control: socket.socket, libc: ctypes.CDLL, request: bytes) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_CHILD_SECONDS)
    number, what, pid, port = request.decode().split()
    try:
        _enter_network(libc, int(pid))
        made = _listener(int(port)) if what == "listen" else _connected(int(port))
    except OSError as error:
        control.send(f"{number} {error.strerror or error}".encode())
    else:
        socket.send_fds(control, [f"{number} ok".encode()], [made.fileno()])


def _enter_network(libc: ctypes.CDLL, pid: int) -> None:
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    owner = fcntl.ioctl(network, _NS_GET_USERNS)
    mine = os.stat("/proc/self/ns/user")  # noqa: PTH116 - few imports, little memory
    if (os.fstat(owner).st_ino, os.fstat(owner).st_dev) != (mine.st_ino, mine.st_dev):
        _enter(libc, owner, _CLONE_NEWUSER, "user namespace")
    _enter(libc, network, _CLONE_NEWNET, "network namespace")


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=_CHILD_SECONDS)


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(_BACKLOG)
    return listener


def _enter(libc: ctypes.CDLL, descriptor: int, kind: int, name: str) -> None:
    if libc.setns(descriptor, kind) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot enter the sandbox's {name}: {os.strerror(code)}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
