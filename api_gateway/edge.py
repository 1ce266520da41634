"""The way of every request: trace, checks, route, authentication, role, limit, answer, log line."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from api_gateway import roles
from api_gateway.call import Call
from api_gateway.observability import log, log_failure
from api_gateway.problems import problem, refused
from api_gateway.reply import Reply
from fasttrack.errors import (
    AuthorizationError,
    ConfigurationError,
    FastTrackError,
    NotFoundError,
    RateLimitError,
    StorageError,
    UnavailableError,
)
from fasttrack.registry.records import AuditRow
from fasttrack.usecase.serving import Action

if TYPE_CHECKING:
    from api_gateway.parts import Parts

_CLOSE: Final = (b"connection", b"close")
_NOT_FOUND: Final = "There is no such path; /docs lists them."


Endpoint = Callable[..., Awaitable[Reply]]


class GuardedRoute(APIRoute):
    """A route that can't be made without saying which action it needs, and can't be called without it.

    `Edge` calls `answer` itself; Starlette's layers between it and the endpoint would cost more than the rest.
    """

    action: Action | None
    limits_itself: bool
    #: Callers sign their requests, which the endpoint verifies, instead of showing a token.
    signed: bool

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        declared = getattr(endpoint, "guard", None)
        if declared is None:
            raise ConfigurationError(
                f"route {path} declares no action.",
                where=endpoint.__name__,
                fix="Put @guard(...), @signed or @public on its function.",
            )
        self.action, self.limits_itself, self.signed = declared
        if self.action is not None or self.signed:
            extra = dict(options.get("openapi_extra") or {})
            extra["security"] = [{"signature" if self.signed else "bearer": []}]
            options["openapi_extra"] = extra
        super().__init__(path, endpoint, **options)

    async def answer(self, call: Call, arguments: dict[str, Any]) -> Reply:
        """Authenticate, authorize, limit, and let the endpoint answer.

        Raises:
            FastTrackError: as the endpoint does, or AuthenticationError, AuthorizationError, RateLimitError.
        """
        endpoint: Endpoint = self.endpoint
        if self.action is not None:
            try:
                await self._admit(call, self.action, arguments.get("name"))
            except (AuthorizationError, NotFoundError):
                # Knocking at closed doors counts, too: each knock is an audit row.
                await call.limit()
                raise
            if not self.limits_itself:
                await call.limit(asks=self.action == "explain")
        return await endpoint(call, **arguments)

    async def _admit(self, call: Call, action: Action, name: str | None) -> None:
        parts = call.parts
        call.principal = await parts.verifier.verify(call.fields.get(b"authorization"))
        if name is None:
            if len(parts.deployments) and not any(
                action in roles.allowed(call.principal, served.usecase.roles) for served in parts.deployments
            ):
                raise roles.unseen(call.principal, "", ())
            return
        served = await parts.deployments.find(name)
        if served is None or not roles.allowed(call.principal, served.usecase.roles):
            raise roles.unseen(call.principal, name, parts.deployments)
        call.deployed = served
        call.actions = roles.authorize(call.principal, served, action)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse to be called around `Edge`.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError("a route was called without its checks.", where=self.path)


def guard(action: Action, *, limits_itself: bool = False) -> Callable[[Endpoint], Endpoint]:
    """Declare the action that an endpoint needs.

    Args:
        action: as in the use case's ``roles``.
        limits_itself: the endpoint calls `Call.limit`, together with its cache look-up.
    """

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.guard = (action, limits_itself, False)  # type: ignore[attr-defined]
        return endpoint

    return declare


def public(endpoint: Endpoint) -> Endpoint:
    """Declare that an endpoint is open to everybody: health, metrics, documentation."""
    endpoint.guard = (None, True, False)  # type: ignore[attr-defined]
    return endpoint


def signed(endpoint: Endpoint) -> Endpoint:
    """Declare that an endpoint verifies its callers' signatures and limits them itself: webhooks."""
    endpoint.guard = (None, True, True)  # type: ignore[attr-defined]
    return endpoint


class Edge:
    """Finds the route of a request, lets it answer, turns every error into a problem document, and logs one line."""

    def __init__(self, parts: Parts, routes: Iterable[Any]) -> None:
        self._parts = parts
        self._fixed: dict[str, dict[str, GuardedRoute]] = {}
        self._patterns: list[tuple[GuardedRoute, frozenset[str]]] = []
        self.in_flight = 0
        parts.metrics.in_flight.set_function(lambda: self.in_flight)
        for route in routes:
            methods = {*route.methods, "HEAD"} if "GET" in route.methods else set(route.methods)
            if "{" in route.path:
                self._patterns.append((route, frozenset(methods)))
            else:
                self._fixed.setdefault(route.path, {}).update(dict.fromkeys(methods, route))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI request."""
        parts, template = self._parts, "unmatched"
        route: GuardedRoute | None = None
        self.in_flight += 1
        try:
            call = Call(scope, receive, parts)
        except FastTrackError as error:
            self.in_flight -= 1
            await problem(error, instance=scope["path"], headers=[]).send(send, [], secure=scope["scheme"] == "https")
            parts.metrics.answered(template, _method(scope), error.status, 0.0)
            return
        try:
            self._check(call)
            route, arguments = self._find(call, scope["method"], scope["path"])
            if route is None:
                reply = Reply(204, b"", headers=[(b"allow", arguments["allow"].encode())])
            else:
                template = route.path
                scope["path_params"] = arguments
                reply = await route.answer(call, arguments)
        except FastTrackError as error:
            reply = self._refusal(call, error)
        except ClientDisconnect:
            # Nobody is left to be answered; 499 is what proxies log for it.
            reply = Reply(499, b"")
        except Exception as error:
            log_failure("a request failed", error, **{"trace.id": call.trace.trace_id})
            reply = self._refusal(call, FastTrackError("unexpected"))
        finally:
            self.in_flight -= 1
        reply = self._recorded(call, route, reply)
        if reply.status != 499:
            first = [(b"x-trace-id", call.trace.trace_id.encode()), *([_CLOSE] if parts.leaving else [])]
            await reply.send(send, [*first, *call.headers_out], secure=scope["scheme"] == "https")
        self._record(call, template, reply)

    def _refusal(self, call: Call, error: FastTrackError) -> Reply:
        call.facts["error.message"] = str(error)
        headers, call.headers_out = call.headers_out, []
        return problem(error, trace_id=call.trace.trace_id, instance=call.scope["path"], headers=headers)

    def _recorded(self, call: Call, route: GuardedRoute | None, reply: Reply) -> Reply:
        """Write the audit row; what can't be recorded is not answered."""
        quiet = reply.status == RateLimitError.status or (
            route is not None and route.action == "metadata" and reply.status < 400
        )
        if route is None or call.principal is None or quiet:
            return reply
        served = call.deployed
        known = sorted(call.principal.roles & served.usecase.roles.keys()) if served else []
        row = AuditRow(
            trace_id=call.trace.trace_id,
            route=f"{call.scope['method']} {route.path}",
            status=reply.status,
            latency_ms=round((time.monotonic() - call.started) * 1000, 3),
            usecase=call.path_params.get("name", "")[:64] or None,
            subject=call.principal.subject,
            role=",".join(known) or None,
            tenant=call.principal.tenant,
            **call.audit,
        )
        try:
            self._parts.audit.put(row, *call.predictions)
        except StorageError as error:
            return self._refusal(call, UnavailableError("the request can't be recorded.", fix=error.fix))
        return reply

    def _check(self, call: Call) -> None:
        if b"host" not in call.fields and call.scope["http_version"] != "1.0":
            raise refused(400, "the Host header is missing.", where="header Host", fix="Send it.")
        if self.in_flight > self._parts.options.max_in_flight:
            raise UnavailableError("the gateway is at its limit.", fix="Try again in a moment.")

    def _find(self, call: Call, method: str, path: str) -> tuple[GuardedRoute | None, dict[str, str]]:
        """The route and its path parameters; no route, but ``allow``, for OPTIONS."""
        found = self._fixed.get(path)
        allowed: set[str] = set(found or ())
        if found is not None and method in found:
            return found[method], {}
        for route, methods in self._patterns:
            match = route.path_regex.match(path)
            if match is not None:
                if method in methods:
                    return route, match.groupdict()
                allowed |= methods
        if not allowed:
            raise refused(404, f"there is no path {path[:128]!r}.", fix=_NOT_FOUND)
        names = ", ".join(sorted({*allowed, "OPTIONS"}))
        if method == "OPTIONS":
            return None, {"allow": names}
        call.headers_out.append((b"allow", names.encode()))
        raise refused(405, f"{method} is not allowed here.", fix=f"Use {names}.")

    def _record(self, call: Call, template: str, reply: Reply) -> None:
        seconds = time.monotonic() - call.started
        method = _method(call.scope)
        self._parts.metrics.answered(template, method, reply.status, seconds, self._usecase(call))
        client = call.scope.get("client")
        facts: dict[str, Any] = {
            "http.request.method": method,
            "url.path": call.scope["path"][:256],
            "http.route": template,
            "http.response.status_code": reply.status,
            "http.response.body.bytes": len(reply.body),
            "event.duration": int(seconds * 1e9),
            "trace.id": call.trace.trace_id,
            "span.id": call.trace.span_id,
            "client.ip": client[0] if client else None,
        }
        if call.principal is not None:
            facts |= {"user.id": call.principal.subject, "organization.id": call.principal.tenant}
        log("info" if reply.status < 500 else "error", "request", **facts, **call.facts)

    def _usecase(self, call: Call) -> str:
        """The use case that the path names, if there is one: invented ones must not make new metric series."""
        name: str = call.path_params.get("name", "")
        there = self._parts.deployments.known(name) or self._parts.webhooks.declared.get(name)
        return name if there else ""


def _method(scope: Scope) -> str:
    """The method, or OTHER: invented ones must not make new metric series."""
    method: str = scope["method"]
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "OTHER"
