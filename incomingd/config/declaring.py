"""How a key is declared: with all that is said of it."""

from collections.abc import Callable
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import PydanticUndefined

KiB: Final = 1 << 10
MiB: Final = 1 << 20
TiB: Final = 1 << 40
MINUTE_S: Final = 60
HOUR_S: Final = 3600
DAY_S: Final = 86_400


def setting(  # noqa: PLR0913 - one parameter for each thing that is said of a key; all by name
    *,
    default: Any = PydanticUndefined,
    default_from: Callable[[dict[str, Any]], Any] | None = None,
    what: str,
    why: str,
    reload: bool,
    unit: str = "",
    default_text: str = "",
    secret: bool = False,
    ge: float | None = None,
    le: float | None = None,
) -> Any:
    """Declare a key.

    `what` it is and `why` one would change it are sentences; `reload`: whether it can change while the daemon runs;
    `default_text` says a default that depends on other things, `default_from` makes it from the group's keys that stand
    before; a `secret` is never shown.
    """
    extra: dict[str, JsonValue] = {
        "x-unit": unit,
        "x-why": why,
        "x-reload": reload,
        "x-default": default_text,
        "x-secret": secret,
    }
    if default_from is not None:
        return Field(default_factory=default_from, description=what, json_schema_extra=extra, ge=ge, le=le)
    return Field(default=default, description=what, json_schema_extra=extra, ge=ge, le=le)


class Group(BaseModel):
    """Settings that belong together. Immutable: a reload makes a new one."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, hide_input_in_errors=True
    )
