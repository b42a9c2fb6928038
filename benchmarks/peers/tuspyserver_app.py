"""tuspyserver in a FastAPI application, as its documentation shows it; uvicorn runs it.

The folder of the files comes in the environment variable ``FILES_DIR``.
"""

from __future__ import annotations

import os

from fastapi import FastAPI
from tuspyserver import create_tus_router

app = FastAPI()
app.include_router(create_tus_router(prefix="files", files_dir=os.environ["FILES_DIR"]))
