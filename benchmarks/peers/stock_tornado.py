"""Tornado as its documentation shows large bodies: `stream_request_body`, and `data_received` writes what comes.

Usage: stock_tornado.py PORT FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import BinaryIO

from tornado.web import Application, RequestHandler, stream_request_body

BODY_BYTES_MAX = 1 << 40


@stream_request_body
class Receiver(RequestHandler):
    """``PUT`` makes a file, or goes on with one that is there; the loop writes it."""

    file: BinaryIO

    def initialize(self, folder: Path) -> None:
        """*folder* is where the files go."""
        self.folder = folder

    def prepare(self) -> None:
        """Open the file."""
        if self.request.method == "PUT":
            self.file = (self.folder / self.path_args[0]).open("ab")

    def data_received(self, chunk: bytes) -> None:
        """Write what has come."""
        self.file.write(chunk)

    def put(self, _name: str) -> None:
        """All is there."""
        self.file.close()
        self.set_status(204)

    def head(self, _name: str) -> None:
        """Answer with nothing."""


async def main(port: int, folder: Path) -> None:
    """Serve until somebody ends it."""
    application = Application([(r"/(\w+)", Receiver, {"folder": folder})])
    application.listen(port, "127.0.0.1", max_body_size=BODY_BYTES_MAX)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
