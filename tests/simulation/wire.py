"""A Redis server on virtual time: the product's own store speaks to it, with the real client library, byte for byte.

Only the server is not real. What its scripts do is done by the memory's store,
which the registry's contract tests hold equal to a real Redis. So here counts
what lies between: connections that are refused, dropped or hang, commands that
are done although nobody hears of it, commands that wait in a hung server and
are done later.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from incomingd.registry import redis_scripts as scripts
from incomingd.registry.store import Entry
from tests.simulation.processes import outside

if TYPE_CHECKING:
    from tests.simulation.network import Redis

T = TypeVar("T")

HOST = "redis.example"
URL = f"redis://{HOST}:6379"
ANSWER_S = 0.001


class Connection(asyncio.Transport):
    """One client's connection, as the server has it and as the client's transport."""

    def __init__(self, server: Server, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._server = server
        self.protocol = protocol
        # What arrives is heard by whoever has connected, if it gets a turn.
        self.context = contextvars.copy_context()
        self.subscribed: str | None = None
        self.waiting: deque[list[bytes]] = deque()
        """Commands that have come and are not done."""
        self._closing = False
        self._unread = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        del name
        return default

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self.drop(None)

    abort = close

    def over(self) -> None:
        """Be closed, and tell nobody."""
        self._closing = True

    def drop(self, error: Exception | None) -> None:
        """End the connection."""
        if not self._closing:
            self._closing = True
            self._server.connections.pop(self, None)
            loop = asyncio.get_running_loop()
            _ = loop.call_soon(self.protocol.connection_lost, error, context=self.context.copy())

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._unread += bytes(data)
        while (found := _command(self._unread)) is not None:
            command, self._unread = found
            self.waiting.append(command)
        self._server.serve(self)

    def answer(self, reply: bytes) -> None:
        """Have *reply* arrive a little later."""
        loop = asyncio.get_running_loop()
        _ = loop.call_later(ANSWER_S, self._arrive, reply, context=self.context.copy())

    def _arrive(self, reply: bytes) -> None:
        if not self._closing:
            self.protocol.data_received(reply)


class Server:
    """Answers commands of all connections.

    Args:
        redis: whose store it is, and what befalls it.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.connections: dict[Connection, None] = {}
        redis.store._hints.append(self._publish)

    def connect(self, protocol: asyncio.Protocol) -> Connection:
        """Take a connection.

        Raises:
            ConnectionRefusedError: it is down.
        """
        if self._redis.state == "down":
            raise ConnectionRefusedError(111, "Connection refused")
        connection = Connection(self, protocol)
        self.connections[connection] = None
        protocol.connection_made(connection)
        return connection

    def changed(self) -> None:
        """Draw the consequences of a new state: who is connected is dropped, or hears what it has waited for."""
        for connection in list(self.connections):
            if self._redis.state == "down":
                connection.drop(ConnectionResetError(104, "Connection reset by peer"))
            else:
                self.serve(connection)

    def drop_all(self) -> None:
        """End every connection, as a fail-over does."""
        for connection in list(self.connections):
            connection.drop(ConnectionResetError(104, "Connection reset by peer"))

    def forget(self) -> None:
        """Let go of what is open when a run is over: nobody closes what a killed process had open."""
        for connection in self.connections:
            connection.over()

    def serve(self, connection: Connection) -> None:
        """Do what has come; a server that hangs does it later, whoever still waits for it."""
        if self._redis.state == "hung":
            return
        while connection.waiting:
            reply = self._do(connection, connection.waiting.popleft())
            if self._redis.chance.random() >= self._redis.loses_answers:
                connection.answer(reply)

    def _do(self, connection: Connection, command: list[bytes]) -> bytes:
        name, *arguments = command
        match name.upper():
            case b"GET":
                return _bulk(self._now(self._redis.store.owner(_braced(arguments[0]))))
            case b"EVAL":
                count = int(arguments[1])
                return self._script(arguments[0].decode(), arguments[2 : 2 + count], arguments[2 + count :])
            case b"SUBSCRIBE":
                connection.subscribed = arguments[0].decode()
                return _array([_bulk(b"subscribe"), _bulk(arguments[0]), b":1\r\n"])
            case b"PING":
                return _array([_bulk(b"pong"), _bulk(b"")]) if connection.subscribed else b"+PONG\r\n"
            case _:
                return b"+OK\r\n"

    def _script(self, script: str, keys: list[bytes], arguments: list[bytes]) -> bytes:
        store, texts = self._redis.store, [each.decode("utf-8", "replace") for each in arguments]
        match script:
            case scripts.RENEW:
                renewed = store.renew(texts[0], arguments[1], lease_s=int(texts[2]) / 1000, fresh=texts[3])
                seen = self._now(renewed)
                told = [_bulk(seen.generation.encode()), _bulk(seen.stamp.encode())]
                return _array([*told, f":{seen.invitations}\r\n".encode(), _bulk(seen.run_id.encode())])
            case scripts.LEASES:
                return _pairs(self._now(store.leases()))
            case scripts.LEAVE:
                self._now(store.leave(texts[0], fresh=texts[1]))
                return _bulk(None)
            case scripts.PUBLISH:
                entry = Entry(_braced(keys[0]), texts[1], texts[2], int(texts[3]), arguments[0])
                return _bulk(self._now(store.publish([entry]))[0])
            case scripts.CORRECT:
                upload_id = _braced(keys[0])
                wrong = Entry(upload_id, texts[0], texts[1], int(texts[2]))
                return _bulk(self._now(store.correct(wrong, Entry(upload_id, "", "", 0, arguments[3]))))
            case scripts.RELEASE:
                self._now(store.release([Entry(_braced(keys[0]), texts[0], texts[1], int(texts[2]))]))
                return _bulk(None)
            case scripts.INVITE:
                self._now(store.invite(texts[2], dict(zip(texts[3::2], arguments[4::2], strict=True))))
                return _bulk(None)
            case scripts.TAKE:
                return _pairs(self._now(store.take(keys[0].decode().rpartition(":invited:")[2])))
            case _:
                return b"-ERR no such script\r\n"

    def _now(self, step: Coroutine[Any, Any, T]) -> T:
        """Return what a step of the memory's store returns: it waits for nothing."""
        try:
            step.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return] # what the step returned
        raise AssertionError("a step of the store has to wait")

    def _publish(self, what: str) -> None:
        for connection in list(self.connections):
            if connection.subscribed is not None:
                parts = [b"message", connection.subscribed.encode(), what.encode()]
                # Whoever brought it about does not wait for that.
                outside(0.0, connection.answer, _array([_bulk(part) for part in parts]))


def connecting(server: Server) -> Callable[[Callable[[], asyncio.Protocol], str], tuple[Connection, asyncio.Protocol]]:
    """Return what a loop does to connect to the host of the server."""

    def connect(factory: Callable[[], asyncio.Protocol], host: str) -> tuple[Connection, asyncio.Protocol]:
        assert host == HOST, host
        protocol = factory()
        return server.connect(protocol), protocol

    return connect


def _braced(key: bytes) -> str:
    return key.decode().partition("{")[2].rpartition("}")[0]


def _command(data: bytes) -> tuple[list[bytes], bytes] | None:
    """Return the first command in *data* and what follows it; None: it has not wholly come."""
    head, ended, rest = data.partition(b"\r\n")
    if not ended:
        return None
    assert head.startswith(b"*"), head
    words = []
    for _ in range(int(head[1:])):
        size, ended, rest = rest.partition(b"\r\n")
        if not ended or len(rest) < int(size[1:]) + 2:
            return None
        length = int(size[1:])
        words.append(rest[:length])
        rest = rest[length + 2 :]
    return words, rest


def _bulk(value: bytes | None) -> bytes:
    return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def _array(parts: list[bytes]) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(parts)


def _pairs(found: dict[str, bytes]) -> bytes:
    return _array([_bulk(part) for name, value in found.items() for part in (name.encode(), value)])
