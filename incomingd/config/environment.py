"""Reading the environment: `INCOMING_PUBLIC__ADDRESS` is `public.address`."""

import re
from collections.abc import Mapping
from typing import Final

from incomingd.config.errors import Problem
from incomingd.config.keys import keys
from incomingd.config.raw import Raw, Reading, nearest_key

PREFIX: Final = "INCOMING_"
# Kubernetes gives every pod variables for each Service of its namespace. One that is called `incoming` must not keep
# this daemon from starting.
_KUBERNETES: Final = re.compile(
    r"INCOMING_([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9]+)*|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)\Z"
)


def read_environment(environ: Mapping[str, str]) -> Reading:
    """Read all variables that begin with `INCOMING_`. An empty variable counts as not set."""
    by_variable = {key.environment_variable: key for key in keys().values()}
    reading = Reading()
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        source = f"environment variable {variable}"
        key = by_variable.get(variable)
        if key is None:
            if not _KUBERNETES.match(variable):
                reading.problems.append(_unknown(variable, source))
        elif environ[variable].strip():
            reading.values[key.name] = Raw(environ[variable], source)
    return reading


def _unknown(variable: str, source: str) -> Problem:
    name = variable.removeprefix(PREFIX).replace("__", ".").lower()
    if name in keys():
        nearest = keys()[name].environment_variable
    else:
        nearest = " or ".join(keys()[near].environment_variable for near in nearest_key(name).split(" or ") if near)
    return Problem("unknown_key", source, name, "there is no such key", nearest=nearest)
