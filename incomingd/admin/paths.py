"""The paths of the admin API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tornado.routing import URLSpec

from incomingd.admin.api import PREFIX
from incomingd.admin.handlers import (
    CancelHandler,
    DrainHandler,
    HealthHandler,
    MetricsHandler,
    RedeliverHandler,
    ReloadHandler,
    RingHandler,
    StatusHandler,
    UndrainHandler,
    UploadHandler,
    UploadsHandler,
)

if TYPE_CHECKING:
    from incomingd.admin.api import AdminApi, AdminHandler

PATHS: Final[dict[str, type[AdminHandler]]] = {
    "/health": HealthHandler,
    "/status": StatusHandler,
    "/metrics": MetricsHandler,
    "/reload": ReloadHandler,
    "/drain": DrainHandler,
    "/undrain": UndrainHandler,
    "/ring": RingHandler,
    "/uploads": UploadsHandler,
    "/uploads/{id}": UploadHandler,
    "/uploads/{id}/cancel": CancelHandler,
    "/uploads/{id}/redeliver": RedeliverHandler,
}
"""Below :data:`PREFIX`."""


def routes(api: AdminApi) -> list[URLSpec]:
    """Return what answers operators, on a listener of its own or beside the backend API.

    The application that they are put into has `trusted` and `close_after_answer` among its settings, as
    :class:`incomingd.web.handler.JsonHandler` says.
    """
    return [
        URLSpec(PREFIX + path.replace("{id}", "([^/]+)") + "$", handler, {"api": api})
        for path, handler in PATHS.items()
    ]
