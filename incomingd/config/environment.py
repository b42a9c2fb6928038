"""Reading the environment: `INCOMING_PUBLIC__ADDRESS` is `public.address`."""

import re
from collections.abc import Mapping
from typing import Final

from incomingd.config.errors import Problem
from incomingd.config.keys import keys
from incomingd.config.raw import Raw, Reading, unknown_key

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
                name = variable.removeprefix(PREFIX).replace("__", ".").lower()
                reading.problems.append(_unknown(name, source))
        elif environ[variable].strip():
            reading.values[key.name] = Raw(environ[variable], source)
    return reading


def _unknown(name: str, source: str) -> Problem:
    if name in keys():  # written in small letters
        nearest = keys()[name].environment_variable
        return Problem("unknown_key", source, name, "names are in capitals", nearest=nearest)
    return unknown_key(name, source, lambda key: keys()[key].environment_variable)
