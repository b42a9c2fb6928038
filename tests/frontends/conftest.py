"""Fixtures for tests that speak HTTP with the public listener."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from incomingd import log
from tests.frontends.service import Service

MakeService = Callable[..., Service]


@pytest.fixture
def make_service(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[MakeService]:
    """Return a function that starts a service with settings: ``make_service({"hold_s": 1})``.

    What libraries log goes into the service's log, which is looked at when it is closed (so `caplog` is claimed here).
    """
    services: list[Service] = []

    def make(settings: dict[str, Any] | None = None, **options: Any) -> Service:
        service = Service(tmp_path / f"data-{len(services)}", settings, **options)
        services.append(service)
        return service.start()

    yield make
    try:
        for service in services:
            service.close()
    finally:
        # The log is the process's, and other tests have their own ideas of it.
        log.shutdown()
        log.set_strict(bool(os.environ.get(log.STRICT_VARIABLE)))


@pytest.fixture
def service(make_service: MakeService) -> Service:
    """A service as it is without any configuration."""
    return make_service()
