"""``POST /v1/usecases/{name}/webhooks/{source}``: verify, limit, and answer once Kafka has the events."""

from __future__ import annotations

import hashlib
import math
import time
from typing import Final

from starlette.requests import ClientDisconnect

from api_gateway.call import Call
from api_gateway.edge import signed
from api_gateway.limits import Limit
from api_gateway.problems import refused
from api_gateway.reply import Reply, json_reply
from api_gateway.routes.bodies import check_encoding
from api_gateway.signatures import Envelope, envelope, verified
from api_gateway.tokens import Principal
from api_gateway.webhooks import Hook, Receipt, Room
from fasttrack.errors import AuthenticationError, FastTrackError, UnavailableError
from fasttrack.usecase.sources import WebhookSource

_LIMIT: Final = int(WebhookSource.model_fields["max_bytes"].default)
_CHALLENGE: Final = (b"www-authenticate", b'Webhook-Signature realm="fasttrack"')
_RETRY_AFTER: Final = (b"retry-after", b"5")
_OUTCOMES: Final = {
    400: "malformed", 401: "refused", 413: "too_large", 415: "malformed", 429: "limited", 503: "unavailable",
}  # fmt: skip


@signed
async def webhook(call: Call, name: str, source: str) -> Reply:
    """Take in events that the sender has signed (Standard Webhooks); 202 means that they are in Kafka for good."""
    webhooks = call.parts.webhooks
    hook = webhooks.find(name, source, call.parts.deployments)
    room, outcome, events = webhooks.room(), "failed", 0
    try:
        receipt = await _received(call, hook, room)
        outcome = "redelivered" if receipt.redelivered else "accepted"
        events = 0 if receipt.redelivered else receipt.events
    except FastTrackError as error:
        outcome = _OUTCOMES.get(error.status, "failed")
        if error.status == AuthenticationError.status:
            call.headers_out.append(_CHALLENGE)
        elif error.status == UnavailableError.status:
            call.headers_out.append(_RETRY_AFTER)
        raise
    except ClientDisconnect:
        outcome = "disconnected"
        raise
    finally:
        room.leave()
        labels = (hook.usecase.name, hook.name) if hook else ("", "")
        call.parts.metrics.webhook(*labels, outcome, events)
    answer = {"events": receipt.events, "redelivered": receipt.redelivered}
    call.audit["response"] = answer
    return json_reply({**answer, "trace_id": call.trace.trace_id}, 202)


async def _received(call: Call, hook: Hook | None, room: Room) -> Receipt:
    """Nobody learns without a good signature whether there is such a webhook: all that comes before is the same."""
    check_encoding(call)
    given = envelope(call.fields, time.time())
    room.enter()
    body = await call.read(hook.source.max_bytes if hook else _LIMIT, room.take)
    hook = _verified(call, hook, given, body)
    await call.take(hook.usecase.name, [Limit("usecase", call.who.identity, hook.usecase.serving.rate_limit)])
    kind = call.fields.get(b"content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise refused(415, "the body is not declared as JSON.", where="header Content-Type", fix="Send JSON.")
    return await call.parts.webhooks.accept(hook, given.id, body, room)


def _verified(call: Call, hook: Hook | None, given: Envelope, body: bytes) -> Hook:
    if not verified(given, body, call.parts.webhooks.secrets(hook)) or hook is None:
        raise AuthenticationError(
            "the signature is not accepted.", where="header webhook-signature",
            fix="Check the secret, and that the body is sent as it was signed.",
        )  # fmt: skip
    call.principal = Principal(
        subject=f"webhook:{hook.name}", tenant="-", roles=frozenset(), expires=math.inf, identity=f"webhook:{hook.name}"
    )
    call.audit["request_hash"] = hashlib.sha256(body).hexdigest()
    call.facts["fasttrack.webhook.id"] = given.id
    return hook
