"""Run one upload with tuspy as it comes from its package.

The only argument is JSON: ``file``; ``endpoint`` or ``url``; ``options`` (given to the uploader as they are). What
happens is told as JSON lines; ends with 0 unless the client gave up.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tusclient import client
from tusclient.exceptions import TusCommunicationError, TusUploadFailed


def tell(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event} | fields) + "\n")
    sys.stdout.flush()


def main() -> int:
    task = json.loads(sys.argv[1])
    tus = client.TusClient(task.get("endpoint"))
    try:
        uploader = tus.uploader(task["file"], url=task.get("url"), **task.get("options", {}))
        uploader.upload()
        tell("success", url=uploader.url)
    except (TusCommunicationError, TusUploadFailed) as error:
        tell("error", message=f"{type(error).__name__}: {error}", status=error.status_code)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
