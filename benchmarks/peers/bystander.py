"""Tornado that has nothing to do but to answer: the least that a question can wait on this machine.

Usage: bystander.py PORT
"""

from __future__ import annotations

import asyncio
import sys

from tornado.web import Application, RequestHandler


class Answer(RequestHandler):
    """``HEAD`` of anything."""

    def head(self) -> None:
        """Answer at once."""


async def main(port: int) -> None:
    """Serve until killed."""
    Application([(r"/.*", Answer)]).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
