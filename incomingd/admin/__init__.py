"""What operators, health checks and Prometheus ask for."""

from incomingd.admin.api import PREFIX, AdminApi, AdminOptions, Instance
from incomingd.admin.lag import watch_loop
from incomingd.admin.paths import routes

__all__ = ["PREFIX", "AdminApi", "AdminOptions", "Instance", "routes", "watch_loop"]
