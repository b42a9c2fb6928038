"""Who may call an API of JSON: bearer tokens, compared without telling by the time it takes."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from incomingd.core.errors import Code, Refusal
from incomingd.core.ids import is_upload_id
from incomingd.web.handler import JsonHandler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incomingd.metrics import Metrics


def check_token(authorization: str | None, tokens: Sequence[str]) -> None:
    """Refuse a caller without one of *tokens*, where there are any.

    Args:
        authorization: the request's Authorization header.
        tokens: all that are accepted.

    Raises:
        Refusal: `token_missing` or `token_wrong`.
    """
    if not tokens:
        return
    scheme, _, given = (authorization or "").strip().partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise Refusal(Code.TOKEN_MISSING)
    said = given.strip().encode("utf-8", "surrogateescape")
    # All of them, always: neither how many fit nor which one shows in the time.
    fits = [hmac.compare_digest(said, token.encode("utf-8")) for token in tokens]
    if not any(fits):
        raise Refusal(Code.TOKEN_WRONG)


class ApiHandler(JsonHandler):
    """A call of an API: a token before anything else, JSON in, JSON out."""

    metrics: Metrics | None = None
    listener = ""

    def tokens(self) -> Sequence[str]:
        """Return the tokens of which a caller needs one; none: anybody may call."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Refuse strangers."""
        super().prepare()
        check_token(self.request.headers.get("Authorization"), self.tokens())

    def refuse(self, refusal: Refusal) -> None:
        """Answer a problem document, and count it."""
        if self.metrics is not None:
            self.metrics.refused(refusal.code, listener=self.listener)
        super().refuse(refusal)

    def document(self, *, default: Any = None) -> Any:
        """Return the body's JSON; *default* where there is no body and one is given.

        A browser sends JSON to another origin only after having asked, text it sends at once: a page that somebody
        near the daemon happens to open must not be able to make tickets.

        Raises:
            Refusal: `content_type_wrong` or `body_malformed`.
        """
        if not self.request.body and default is not None:
            return default
        media_type = self.request.headers.get("Content-Type", "").split(";", 1)[0].strip().lower()
        if self.request.body and media_type != "application/json":
            raise Refusal(Code.CONTENT_TYPE_WRONG, "Send JSON, with Content-Type: application/json.")
        return self.json_body()


def upload_id_of(text: str) -> str:
    """Return *text* as an upload's id.

    Raises:
        Refusal: `upload_unknown`: no upload can have such an id.
    """
    if not is_upload_id(text):
        raise Refusal(Code.UPLOAD_UNKNOWN)
    return text
