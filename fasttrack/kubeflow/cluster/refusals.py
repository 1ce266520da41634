"""What an API server's refusals mean, in FastTrack's errors, each with the next thing to do."""

from __future__ import annotations

import re
from typing import Any

import orjson

from fasttrack.errors import (
    AuthenticationError,
    AuthorizationError,
    ConfigurationError,
    ConflictError,
    DeadlineError,
    FastTrackError,
    NotFoundError,
    UnavailableError,
)

#: Answers that a repetition may change: too busy, starting, a webhook that doesn't answer yet.
TRANSIENT = frozenset({0, 429, 500, 502, 503, 504})


class Expired(ConflictError):
    """The history that was asked for has been thrown away (410); read the present again."""


_WEBHOOK = re.compile(r'admission webhook "([^"]+)" denied the request:?\s*(.*)', re.DOTALL)
_CALLING = re.compile(r'failed calling webhook "([^"]+)"')
_NAMESPACE = re.compile(r'namespaces "([^"]+)" not found')


def refusal(status: int, body: str | bytes, where: str) -> FastTrackError:
    """The error for an answer of the API server.

    Args:
        status: the HTTP status; 0 if there was no answer.
        body: the answer, usually a Status object as JSON.
        where: what was asked for, such as ``TrainJob fasttrack/flights-train``.
    """
    message = _message(body)
    for judge in (_of_admission, _of_status):
        if found := judge(status, message, where):
            return found
    return ConfigurationError(f"the API server refused it ({status}): {message}", where=where)


def _message(body: str | bytes) -> str:
    try:
        found: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if isinstance(found, dict):
        return str(found.get("message") or found.get("reason") or "no reason given")
    text = body.decode(errors="replace") if isinstance(body, bytes) else body
    return text.strip()[:500] or "no reason given"


def _of_admission(status: int, message: str, where: str) -> FastTrackError | None:
    """Refusals by what stands before the store: webhooks, quotas, pod security."""
    if denied := _WEBHOOK.search(message):
        return ConfigurationError(
            f"webhook refused: {denied[1]} says: {denied[2].strip() or 'no reason given'}",
            where=where,
            fix="Mend what it names in the use case and compile again.",
        )
    if calling := _CALLING.search(message):
        return UnavailableError(
            f"the webhook {calling[1]} does not answer: {message}",
            where=where,
            fix="Look whether its operator runs: `fasttrack doctor --cluster`.",
        )
    if "exceeded quota" in message:
        detail = message.partition("exceeded quota: ")[2] or message
        return ConfigurationError(
            f"quota exceeded: {detail}.",
            where=where,
            fix="Wait for running work to end, ask for less (resources), or have the ResourceQuota raised.",
        )
    if "failed to create typed" in message:
        return ConfigurationError(f"it does not keep to its schema: {message}", where=where, fix="Compile it again.")
    if "violates PodSecurity" in message:
        return ConfigurationError(
            f"the namespace's pod security refuses it: {message.partition('violates ')[2]}.",
            where=where,
            fix="Use FastTrack's own manifests unchanged; they keep to `restricted`.",
        )
    return None


def _of_status(status: int, message: str, where: str) -> FastTrackError | None:
    match status:
        case 401:
            return AuthenticationError(
                "the cluster does not know you.", where=where, fix="Log in to the cluster again."
            )
        case 403:
            return AuthorizationError(
                f"not permitted: {message}", where=where, fix="Bind a Role with this verb and resource to this account."
            )
        case 404 if named := _NAMESPACE.search(message):
            return NotFoundError(
                f"there is no namespace {named[1]!r}.", where=where, fix=f"kubectl create namespace {named[1]}"
            )
        case 404:
            return NotFoundError(f"it is not there: {message}.", where=where)
        case 409:
            return ConflictError(
                f"somebody else has it: {message}", where=where, fix="Look who owns it, then try again."
            )
        case 410:
            return Expired("the history that was asked for is gone.", where=where)
        case 413 | 400 | 415 | 422:
            return ConfigurationError(f"the cluster can't take it: {message}", where=where, fix="Mend what it names.")
        case 504:
            return DeadlineError(f"the API server was too slow: {message}", where=where, fix="Try again.")
        case _ if status in TRANSIENT:
            return UnavailableError(
                f"the API server does not answer ({status or 'no connection'}): {message}",
                where=where,
                fix="Look whether the cluster is up: `kubectl get --raw /readyz`.",
            )
    return None
