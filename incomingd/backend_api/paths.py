"""The paths of the backend API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tornado.routing import URLSpec

from incomingd.backend_api.api import PREFIX, BackendHandler
from incomingd.backend_api.description import description
from incomingd.backend_api.download import FileHandler
from incomingd.backend_api.uploads import (
    CancelHandler,
    FinishHandler,
    RedeliverHandler,
    UploadHandler,
    UploadsHandler,
)

if TYPE_CHECKING:
    from incomingd.backend_api.api import BackendApi


class DescriptionHandler(BackendHandler):
    """``/openapi.json``."""

    def get(self) -> None:
        """Answer the description."""
        self.answer(description())

    head = get


PATHS: Final[dict[str, type[BackendHandler]]] = {
    "/uploads": UploadsHandler,
    "/uploads/{id}": UploadHandler,
    "/uploads/{id}/cancel": CancelHandler,
    "/uploads/{id}/finish": FinishHandler,
    "/uploads/{id}/redeliver": RedeliverHandler,
    "/uploads/{id}/file": FileHandler,
    "/openapi.json": DescriptionHandler,
}
"""Below :data:`PREFIX`, as the published description writes them."""


def routes(api: BackendApi) -> list[URLSpec]:
    """Return what answers on the backend's listener.

    The application that they are put into has `trusted` and `close_after_answer` among its settings, as
    :class:`incomingd.web.handler.JsonHandler` says.
    """
    return [
        URLSpec(PREFIX + path.replace(".", r"\.").replace("{id}", "([^/]+)") + "$", handler, {"api": api})
        for path, handler in PATHS.items()
    ]
