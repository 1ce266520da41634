"""One request on its way through the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope

from api_gateway.limits import Decision, Limit
from api_gateway.observability import Trace
from api_gateway.problems import refused
from fasttrack.errors import ConfigurationError, FastTrackError
from fasttrack.registry.records import PredictionRow
from fasttrack.rollout.arms import key_bytes
from fasttrack.usecase.serving import Action, RateLimit

if TYPE_CHECKING:
    from api_gateway.deployments import Served
    from api_gateway.experiments import Assignment
    from api_gateway.parts import Parts
    from api_gateway.tokens import Principal

#: The limit on routes that belong to no use case.
GENERAL_LIMIT: Final = RateLimit()
_SINGLE: Final = (
    b"authorization", b"host", b"content-type", b"content-length", b"traceparent", b"content-encoding",
    b"webhook-id", b"webhook-timestamp", b"webhook-signature",
)  # fmt: skip


class Call(Request):
    """A request on its way through the gateway; it gains a principal, a deployment and a limit decision as it goes."""

    def __init__(self, scope: Scope, receive: Receive, parts: Parts) -> None:
        super().__init__(scope, receive)
        self.parts = parts
        self.started = time.monotonic()
        self.fields = _single_valued(scope["headers"])
        self.trace = Trace.of(self.fields.get(b"traceparent"))
        self.headers_out: list[tuple[bytes, bytes]] = []
        #: For the log line, and for the audit row (fields of `AuditRow`).
        self.facts: dict[str, Any] = {}
        self.audit: dict[str, Any] = {}
        self.predictions: list[PredictionRow] = []
        self.principal: Principal | None = None
        self.deployed: Served | None = None
        self.actions: frozenset[Action] = frozenset()
        self.assignment: Assignment | None = None

    @property
    def who(self) -> Principal:
        """The verified caller; only on routes with an action."""
        if self.principal is None:
            raise ConfigurationError("a route without an action asked who calls.")
        return self.principal

    @property
    def served(self) -> Served:
        """The use case that the path names; only on routes with ``{name}``."""
        if self.deployed is None:
            raise ConfigurationError("a route without a name asked for its use case.")
        return self.deployed

    @property
    def deadline(self) -> float:
        """When the answer is due on the monotonic clock: the use case's deadline, or the caller's, if sooner."""
        seconds = self.served.deadline
        asked = self.fields.get(b"x-request-deadline-ms", "")
        if asked.isascii() and asked.isdigit():
            seconds = min(seconds, int(asked[:9]) / 1000)
        return self.started + seconds

    def assign(self, question: Callable[[], Any]) -> None:
        """Draw the arm of a request, if a rollout runs; its servers answer then.

        Args:
            question: gives what is asked about, in canonical form; called only where arms are drawn by it.
        """
        served, who = self.served, self.who
        assignment = self.assignment = self.parts.experiments.assign(
            served,
            lambda running: key_bytes(
                running.plan.key, tenant=who.tenant, subject=who.subject, request_id=self.trace.span_id,
                question=question() if running.plan.key == "entity" else None,
            ),
        )  # fmt: skip
        self.answer_by(served if assignment is None else assignment.served)

    def answer_by(self, served: Served) -> None:
        """Let other servers of the same use case answer: those of an arm."""
        self.deployed = served
        self.audit |= {"model_version": served.version, "digest": served.digest}
        if self.assignment is not None:
            self.facts["fasttrack.arm"] = self.experiment["arm"]

    @property
    def experiment(self) -> dict[str, str]:
        """Rollout, mode and arm for the answer; only with an assignment."""
        assignment = self.assignment
        if assignment is None:
            raise ConfigurationError("a request without a rollout asked for its arm.")
        arm = "champion" if self.deployed is assignment.champion else "challenger"
        return {"rollout": str(assignment.rollout), "mode": assignment.known.running.plan.mode, "arm": arm}

    async def read(self, limit: int, arrived: Callable[[int], None] | None = None) -> bytes:
        """The body.

        Args:
            limit: in bytes.
            arrived: told the size of each piece.

        Raises:
            InvalidRequestError: it is longer than `limit` bytes (status 413).
            ClientDisconnect: the client hung up.
        """
        length = self.fields.get(b"content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length[:18]) > limit:
            raise _too_large(limit)
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            piece = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            if arrived is not None:
                arrived(len(piece))
            pieces.append(piece)
            if not message.get("more_body", False):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def limit(self, cache_key: str | None = None, *, asks: int = 0) -> Decision:
        """Take one request from the caller's limit and the tenant's, and look `cache_key` up on the way.

        Args:
            cache_key: of the answer.
            asks: how many predictions the model is asked for; they are taken from the caller's query budget.

        Raises:
            RateLimitError: nothing is left.
        """
        who, served = self.who, self.deployed
        if served is None:
            name, limits = "-", [Limit("usecase", who.identity, GENERAL_LIMIT)]
        else:
            name, serving = served.name, served.usecase.serving
            limits = [Limit("usecase", who.identity, serving.rate_limit)]
            if serving.tenant_quota is not None:
                limits.append(Limit("tenant", who.tenant, serving.tenant_quota))
            if serving.query_budget is not None and asks:
                limits.append(Limit("budget", who.identity, serving.query_budget, asks))
        return await self.take(name, limits, cache_key)

    async def spend(self, asks: int) -> None:
        """Take predictions from the caller's query budget, if the use case has one, after `limit` took the request.

        Raises:
            RateLimitError: that many are not left.
        """
        budget = self.served.usecase.serving.query_budget
        if budget is not None and asks:
            await self.take(self.served.name, [Limit("budget", self.who.identity, budget, asks)])

    async def take(self, name: str, limits: Sequence[Limit], cache_key: str | None = None) -> Decision:
        """Take from limits of use case `name`, and tell the caller what is left.

        Raises:
            RateLimitError: nothing is left in one of them.
        """
        decision = await self.parts.limiter.take(name, limits, cache_key)
        self.headers_out += decision.headers()
        decision.check()
        return decision


def _too_large(limit: int) -> FastTrackError:
    return refused(413, f"the body is larger than {limit} bytes.", where="body", fix="Send less.")


def _single_valued(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """The headers by lower-case name.

    Raises:
        InvalidRequestError: one that must be single came twice: two readers could pick different ones.
    """
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name in found and name in _SINGLE:
            raise refused(400, f"header {name.decode('latin-1')} came twice.", where="headers", fix="Send it once.")
        found[name] = value.decode("latin-1")
    return found
