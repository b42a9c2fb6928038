"""The same fixtures as for the backend API: both answer on one listener."""

from tests.backend_api.conftest import api, make_api

__all__ = ["api", "make_api"]
