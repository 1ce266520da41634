"""Logs as JSON in Elastic's common schema: one line a request, on standard output."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from fasttrack.serving.trace import RequestContext

_NAME: Final = "fasttrack.request"
#: Probes and scrapes come every few seconds; their successes say nothing.
_QUIET: Final = ("/v2/health/", "/metrics", "/ready", "Service/Server", "Service/ModelReady")
#: Of this process, in its request lines.
_service = ""


class _EcsFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        line = _line(self.service, record.created, record.levelname.lower(), record.getMessage(), record.name)
        if record.exc_info and record.exc_info[0] is not None:
            line["error.type"] = record.exc_info[0].__name__
            line["error.stack_trace"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def _line(service: str, at: float, level: str, message: str, logger: str) -> dict[str, Any]:
    return {
        "@timestamp": datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds"),
        "log.level": level,
        "message": message,
        "ecs.version": "8.11",
        "log.logger": logger,
        "service.name": service,
    }


def configure(service: str) -> None:
    """Send all logs of this process to standard output as JSON lines, and quiet the SDK's own request lines."""
    global _service
    _service = service
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_EcsFormatter(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    logging.getLogger("fasttrack").setLevel(logging.INFO)
    logging.captureWarnings(True)
    # The SDK's own responses; nothing that a reader of the log could change.
    warnings.filterwarnings("ignore", message="ORJSONResponse is deprecated")


def log_request(
    context: RequestContext, protocol: str, route: str, status: int | str, started: float, error: str = ""
) -> None:
    """Write the one line of a request.

    Args:
        context: the request's trace.
        protocol: ``http`` or ``grpc``.
        route: ``POST /v2/models/x/infer`` or the full gRPC method.
        status: HTTP status, or the name of the gRPC status.
        started: `time.perf_counter` at its beginning.
        error: what went wrong, if anything did.
    """
    good = status in (200, "OK")
    if good and any(part in route for part in _QUIET):
        return
    fields: dict[str, Any] = {
        "trace.id": context.trace_id,
        "span.id": context.span_id,
        "network.protocol": protocol,
        "event.duration": int((time.perf_counter() - started) * 1e9),
    }
    if protocol == "http":
        method, _, path = route.partition(" ")
        fields |= {"http.request.method": method, "url.path": path, "http.response.status_code": status}
    else:
        fields |= {"rpc.method": route, "rpc.grpc.status": status}
    if error:
        fields["error.message"] = error
    # Not by way of logging: its record, locks and look for the caller cost as much as the line itself.
    level = "info" if good else "warning"
    line = _line(_service, time.time(), level, f"{route} {status}", _NAME) | fields
    sys.stdout.buffer.write(orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.buffer.flush()
