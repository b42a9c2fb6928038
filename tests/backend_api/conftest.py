"""Fixtures for tests that call the backend and the admin API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backend_api.service import ApiService

MakeApi = Callable[..., ApiService]


@pytest.fixture
def make_api(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[MakeApi]:
    """Return a function that starts a service with settings: ``make_api({"backend": {"tokens": ["t"]}})``.

    What libraries log goes into the service's log, which is looked at when it is closed (so `caplog` is claimed here).
    """
    services: list[ApiService] = []

    def make(settings: dict[str, Any] | None = None) -> ApiService:
        service = ApiService(tmp_path / f"data-{len(services)}", {"durability": "none"} | (settings or {}))
        services.append(service)
        service.start()
        return service

    yield make
    for service in services:
        service.close()


@pytest.fixture
def api(make_api: MakeApi) -> ApiService:
    """A service as it is without any configuration."""
    return make_api()
