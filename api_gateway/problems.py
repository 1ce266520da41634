"""Errors as RFC 9457 problem details; what is our own trouble is named, never described."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import orjson

from api_gateway.reply import Reply
from fasttrack.errors import FastTrackError, InvalidRequestError

CONTENT_TYPE = b"application/problem+json"
_RETRY_AFTER = {429, 502, 503, 504, 507}
_HIDDEN = "The request could not be answered. The cause is in the gateway's log under the trace id."
_SECRETS = re.compile(r"(?i)(bearer\s+\S+|eyJ[\w-]+\.[\w.-]+|//[^/\s:@]+:[^/\s@]+@)")


def refused(status: int, what: str, *, where: str | None = None, fix: str | None = None) -> InvalidRequestError:
    """A refusal of the request with a status of HTTP's own, such as 413 or 415."""
    error = InvalidRequestError(what, where=where, fix=fix)
    error.status = status
    error.title = HTTPStatus(status).phrase
    return error


def problem(
    error: FastTrackError, *, trace_id: str = "", instance: str = "", headers: list[tuple[bytes, bytes]]
) -> Reply:
    """The answer for `error`.

    Args:
        error: what went wrong; of a 500 only the title is told, of other 5xx not the place.
        trace_id: 32 hex digits under which the log has more.
        instance: the request's path.
        headers: further headers, such as RateLimit.
    """
    status = error.status
    body: dict[str, Any] = {
        "type": f"urn:fasttrack:problem:{re.sub(r'[^a-z0-9]+', '-', error.title.lower())}",
        "title": error.title if status != 500 else "Internal error",
        "status": status,
        "detail": _SECRETS.sub("***", error.what) if status != 500 else _HIDDEN,
    }
    if status == 500:
        body["type"] = "urn:fasttrack:problem:internal-error"
    if status < 500 and error.where:
        body["where"] = error.where
    if status < 500 and error.fix:
        body["fix"] = error.fix
    body |= {"instance": instance, "trace_id": trace_id}
    if instance.startswith("/v2"):
        # Clients of the Open Inference Protocol look for this member alone.
        body["error"] = body["detail"]
    return Reply(status, orjson.dumps(body), CONTENT_TYPE, [*headers, *_standard(status, headers)])


def _standard(status: int, given: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that a status calls for and that nobody has set yet."""
    names = {name for name, _ in given}
    if status == 401 and b"www-authenticate" not in names:
        return [(b"www-authenticate", b'Bearer realm="fasttrack", error="invalid_token"')]
    if status in _RETRY_AFTER and b"retry-after" not in names:
        return [(b"retry-after", b"1")]
    return []
