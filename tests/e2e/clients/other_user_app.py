"""A web app that runs as another Unix user: takes the file at the callback's ``path``.

``other_user_app.py PORT read|move FOLDER``: copies the file's bytes into FOLDER, or moves the file there, under the
upload's id; answers ``done``, or 500 with the reason. Standard library only, so that any Python can run it.
"""

import json
import os
import shutil
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

PORT, HOW, FOLDER = int(sys.argv[1]), sys.argv[2], sys.argv[3]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, text = 200, b"done"
        if event["type"] == "upload.complete":
            goal = os.path.join(FOLDER, event["data"]["id"])
            try:
                if HOW == "move":
                    os.rename(event["data"]["path"], goal)
                else:
                    shutil.copyfile(event["data"]["path"], goal)
            except OSError as error:
                status, text = 500, str(error).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


HTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
