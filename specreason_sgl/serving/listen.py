"""The address a server binds to, and who can reach it there."""

import contextlib
import ipaddress
import socket
from collections.abc import Sequence

from specreason_sgl.errors import ConfigError, LaunchError

BACKLOG = 2048  # uvicorn's
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_exposure(host: str, api_key: str, without_key: bool) -> None:
    """Refuse to serve other machines without a key, unless the user asked for that.

    Raises:
        ConfigError: other machines can reach `host`, and there is neither a key nor `without_key`.
    """
    if not is_loopback(host) and not api_key and not without_key:
        raise ConfigError(
            f"other machines can reach {host}: give an --api-key, or --without-key if anyone may use it"
        )


def host_names(host: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """The host names that requests to `host` may use; empty: any.

    Args:
        host: the address to bind to.
        allowed: further names, such as a proxy's. With them, other machines may use no others either.
    """
    if not is_loopback(host) and not allowed:
        return ()
    bound = f"[{host}]" if ":" in host else host
    return tuple(dict.fromkeys(name.lower() for name in (*LOOPBACK_NAMES, bound, *allowed)))


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at the address: from now on nobody else can, and clients that come wait.

    Raises:
        LaunchError: the port is taken, or the address is not this machine's.
    """
    return bind_shared(host, port, 1)[0]


def bind_shared(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets that listen at the same address. Linux spreads connections evenly over them (SO_REUSEPORT);
    of one socket that several processes accept from, most go to the same process.

    Raises:
        LaunchError: as `bind`. The first socket is bound before it may be shared, so it does not join others.
    """
    with contextlib.ExitStack() as stack:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            sockets = [stack.enter_context(socket.socket(family, socket.SOCK_STREAM)) for _ in range(count)]
            sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sockets[0].bind((host, port))
            if count > 1:
                for sock in sockets:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for sock in sockets[1:]:
                sock.bind(sockets[0].getsockname())
            for sock in sockets:
                sock.listen(BACKLOG)
        except OSError as error:
            raise LaunchError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from None
        stack.pop_all()
    return sockets


def url(sock: socket.socket) -> str:
    """The URL for clients on this machine."""
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
