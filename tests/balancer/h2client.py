"""HTTP/2 over TLS by hand: a request can stop in the middle of its body, and be answered there."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from hyperframe.frame import DataFrame

from tests.support.wire import ConnectionEnded, Headers, Response


@dataclass
class _Stream:
    headers: Headers = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: bool = False


class H2:
    """One connection; a context manager."""

    def __init__(self, address: tuple[str, int], ca_file: Path, *, timeout_s: float = 30) -> None:
        context = ssl.create_default_context(cafile=str(ca_file))
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(address, timeout=timeout_s)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname="localhost")
        assert self.socket.selected_alpn_protocol() == "h2"
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._connection.initiate_connection()
        self._streams: dict[int, _Stream] = {}
        self._pongs = 0
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def open(self, method: str, path: str, headers: Headers | None = None, *, has_body: bool = True) -> int:
        """Send a request's head; return its stream's number."""
        number = self._connection.get_next_available_stream_id()
        self._streams[number] = _Stream()
        fields = [(":method", method), (":path", path), (":scheme", "https"), (":authority", "localhost")]
        fields += [(name.lower(), value) for name, value in (headers or {}).items()]
        self._connection.send_headers(number, fields, end_stream=not has_body)
        self._flush()
        return number

    def send(self, number: int, data: bytes, *, end: bool = False) -> None:
        """Send a piece of a body, as fast as the other side lets us; what comes after an answer is not sent."""
        while data:
            stream = self._streams[number]
            if stream.ended or stream.reset:
                return
            room = min(
                self._connection.local_flow_control_window(number), self._connection.max_outbound_frame_size, len(data)
            )
            if room == 0:
                self._receive()
                continue
            self._connection.send_data(number, data[:room])
            self._flush()
            data = data[room:]
        if end:
            self._connection.end_stream(number)
            self._flush()

    def answered(self, number: int) -> bool:
        """Return whether the answer is whole, or the stream was reset, by when the other side has read all of ours."""
        self._connection.ping(b"answered")
        self._flush()
        self._pongs += 1
        while self._pongs:
            self._receive()
        return self._streams[number].ended or self._streams[number].reset

    def send_regardless(self, number: int, data: bytes) -> None:
        """Send a piece of a body as who has not heard yet that there is an answer, or that the stream was reset."""
        room = self._connection.outbound_flow_control_window
        assert len(data) <= room
        for start in range(0, len(data), self._connection.max_outbound_frame_size):
            piece = data[start : start + self._connection.max_outbound_frame_size]
            self.socket.sendall(DataFrame(number, piece).serialize())
        # Of a stream that has ended the library sends nothing, so it has to be told what has left.
        self._connection.outbound_flow_control_window = room - len(data)

    def response(self, number: int) -> Response:
        """Wait for the whole answer; `ConnectionEnded` where the stream or the connection is cut before it."""
        stream = self._streams[number]
        while not stream.ended:
            if stream.reset:
                raise ConnectionEnded(f"the stream was reset; before it came {stream.headers}")
            self._receive()
        return Response(int(stream.headers[":status"]), "", stream.headers, stream.body)

    def request(self, method: str, path: str, headers: Headers | None = None, body: bytes = b"") -> Response:
        """Send a request and return its answer."""
        number = self.open(method, path, headers, has_body=bool(body))
        if body:
            self.send(number, body, end=True)
        return self.response(number)

    def _flush(self) -> None:
        self.socket.sendall(self._connection.data_to_send())

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionEnded("the connection was closed")
        for event in self._connection.receive_data(data):
            match event:
                case h2.events.ResponseReceived():
                    self._streams[event.stream_id].headers |= dict(_text(event.headers))
                case h2.events.DataReceived():
                    self._streams[event.stream_id].body += event.data
                    self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    self._streams[event.stream_id].ended = True
                case h2.events.PingAckReceived():
                    self._pongs -= 1
                case h2.events.StreamReset():
                    self._streams[event.stream_id].reset = True
        self._flush()


def _text(headers: object) -> list[tuple[str, str]]:
    assert isinstance(headers, list)
    return [(str(name), str(value)) for name, value in headers]
