"""Shell scripts that run inside a sandbox, with what every Debian has: sh, bash, perl."""

from tests.sandboxes.faults import sh


def say_over_unix(path: str, word: str) -> tuple[str, ...]:
    return sh(
        f"perl -MSocket -e 'socket(S,PF_UNIX,SOCK_STREAM,0); connect(S,sockaddr_un($ARGV[0]))"
        f' or die "no: $!"; syswrite S,"$ARGV[1]\\n"; print <S>\' {path} {word}'
    )


def say_over_port(port: int, word: str) -> tuple[str, ...]:
    return (
        "/bin/bash",
        "-c",
        f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo {word} >&3 && cat <&3",
    )


def connect(host: str, port: int) -> tuple[str, ...]:
    """Prints `reached`, or why not."""
    return sh(
        'perl -MSocket -e \'socket(S,PF_INET,SOCK_STREAM,0); $SIG{ALRM}=sub{print "late"; exit};'
        " alarm 5; print connect(S,sockaddr_in($ARGV[1],inet_aton($ARGV[0]))) ?"
        f' "reached" : "$!"\' {host} {port}'
    )


def greet_on_a_port() -> tuple[str, ...]:
    """Listens on a free port of the loopback, prints it, and greets whoever connects."""
    program = (
        "$| = 1; socket(S,PF_INET,SOCK_STREAM,0); bind(S,sockaddr_in(0,INADDR_LOOPBACK)) or die $!;"
        ' listen(S,5); print((sockaddr_in(getsockname(S)))[0], "\n");'
        ' while (accept(C,S)) { syswrite C,"hello from inside\n"; close C }'
    )
    return ("/usr/bin/perl", "-MSocket", "-e", program)
