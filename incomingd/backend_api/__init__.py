"""The API for the backends of web apps: tickets, looking, changing, cancelling, confirming, files."""

from incomingd.backend_api.api import PREFIX, BackendApi, BackendOptions
from incomingd.backend_api.paths import routes

__all__ = ["PREFIX", "BackendApi", "BackendOptions", "routes"]
