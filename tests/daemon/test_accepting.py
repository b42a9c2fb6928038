"""Connections as they are handed to who serves them."""

from __future__ import annotations

import socket

from incomingd.daemon.accepting import make_stream


async def test_an_answer_is_not_held_back_to_be_sent_with_more() -> None:
    """Nagle's algorithm is off for as long as the connection lasts, whatever Tornado says between two answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        accepted.setblocking(False)
        stream = make_stream(accepted, None, buffer_bytes=1024, read_bytes=1024)
        try:
            for value in (True, False):
                stream.set_nodelay(value)
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        finally:
            stream.close()
