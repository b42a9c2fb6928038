"""Listening sockets that the service manager holds (sd_listen_fds(3)): they outlive this process.

Connections that come while the process is being restarted wait in the socket's queue; none is refused.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

FIRST_DESCRIPTOR: Final = 3
UNNAMED: Final = "unknown"
"""How the service manager calls a socket that it has no name for."""


class InheritedError(Exception):
    """The service manager has handed over what cannot be used; the text says what to change."""


def sockets(environ: Mapping[str, str], listeners: Collection[str], *, default: str) -> dict[str, list[socket.socket]]:
    """Return the listening sockets that were handed to this process, by the listener that they are for.

    Args:
        environ: with `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` where there are any.
        listeners: names that a socket may have.
        default: of these, whose a socket without a name is.

    Raises:
        InheritedError: one is no listening stream socket, or has the name of no listener.
    """
    descriptors = _descriptors(environ)
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += [UNNAMED] * (len(descriptors) - len(names))
    meant = [default if name in ("", UNNAMED) else name for name in names[: len(descriptors)]]
    for name in meant:
        if name not in listeners:
            known = ", ".join(sorted(listeners))
            msg = f"a socket called {name!r} was handed over: FileDescriptorName= has to be one of {known}"
            raise InheritedError(msg)
    found: dict[str, list[socket.socket]] = {}
    try:
        for descriptor, name in zip(descriptors, meant, strict=True):
            found.setdefault(name, []).append(_listening(descriptor, name))
    except InheritedError:
        for each in found.values():
            for handed in each:
                handed.close()
        raise
    return found


def _descriptors(environ: Mapping[str, str]) -> range:
    """Return the numbers of what was handed over; none where the variables are another process's."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return range(0)
    return range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))


def _listening(descriptor: int, listener: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 -- the system's own interface
        handed = socket.socket(fileno=descriptor)
    except OSError as error:
        msg = f"what was handed over for the {listener} listener is no socket: {error.strerror}"
        raise InheritedError(msg) from error
    stream = handed.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) and handed.type == socket.SOCK_STREAM
    if not stream or not handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        handed.close()
        msg = f"the {listener} listener needs a listening stream socket: ListenStream=, with Accept=no"
        raise InheritedError(msg)
    handed.setblocking(False)  # noqa: FBT003 -- the socket's own interface
    return handed


def where(handed: socket.socket) -> str:
    """Return the address of a listening socket as people write it."""
    name = handed.getsockname()
    if handed.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
