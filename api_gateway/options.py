"""What can be tuned about one gateway process; where the other parts are stands in `fasttrack.settings`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fasttrack.errors import ConfigurationError
from fasttrack.settings import data_home

PREFIX = "FASTTRACK_GATEWAY_"


def _spool() -> Path:
    return data_home() / "gateway" / "spool"


@dataclass(frozen=True)
class GatewayOptions:
    """Limits and deadlines of a gateway process. Durations are in seconds, sizes in bytes.

    Attributes:
        header_seconds: a request's headers must be complete this long after its first byte (or the connection).
        body_seconds: its body must be complete this long after the headers.
        write_seconds: a client that does not read its answer for this long is hung up on.
        keep_alive_seconds: idle connections are closed after this.
        leave_seconds: after SIGTERM requests are still answered for so long, each with ``Connection: close``.
        drain_seconds: requests that are under way then may take this long to end.
        max_header_bytes: request line and headers together.
        max_headers: number of header fields.
        max_body_bytes: JSON bodies of the ``/v1`` routes.
        max_infer_bytes: bodies of the V2 pass-through, which may hold tensors.
        max_answer_bytes: largest answer that is taken from a model server.
        max_depth: nesting of JSON bodies.
        max_token_bytes: longest bearer token.
        max_in_flight: requests handled at a time; beyond that they are shed with 503.
        clock_skew_seconds: tolerance on token times; never above 60.
        keys_refresh_seconds: how often the issuer's keys are read again.
        keys_cooldown_seconds: an unknown key id makes the keys be read again, but not more often than this.
        poll_seconds: how often deployments are read from the registry.
        redis_seconds: how long Redis may take for one answer before it counts as gone.
        connect_seconds: how long connecting to a model server may take.
        explain_share: the part of a request's deadline that an explanation may take.
        breaker_failures: consecutive failures of a model server that open its circuit breaker.
        breaker_seconds: how long an open breaker refuses before one request may try again.
        audit_rows: rows held in memory before they are spooled to disk.
        audit_seconds: the longest that a row waits before its batch is written.
        spool: folder for audit rows that PostgreSQL could not take yet.
        webhook_seconds: how long Kafka may take to confirm a webhook's events.
        webhook_in_flight: webhooks read or confirmed at a time; beyond that they are shed with 503.
        webhook_held_bytes: their bodies' memory, together.
        webhook_events: events in one body.
        usecases: a use-case file or a folder of them, whose webhooks are served before there is a model.
        out_of_range: ``flag`` (a warning in the answer) or ``refuse`` values outside the training range.
    """

    header_seconds: float = 10.0
    body_seconds: float = 20.0
    write_seconds: float = 20.0
    keep_alive_seconds: float = 75.0
    leave_seconds: float = 2.0
    drain_seconds: float = 20.0
    max_header_bytes: int = 32_768
    max_headers: int = 100
    max_body_bytes: int = 262_144
    max_infer_bytes: int = 16_777_216
    max_answer_bytes: int = 67_108_864
    max_depth: int = 16
    max_token_bytes: int = 8_192
    max_in_flight: int = 512
    clock_skew_seconds: float = 30.0
    keys_refresh_seconds: float = 300.0
    keys_cooldown_seconds: float = 5.0
    poll_seconds: float = 2.0
    redis_seconds: float = 0.1
    connect_seconds: float = 1.0
    explain_share: float = 0.8
    breaker_failures: int = 5
    breaker_seconds: float = 2.0
    audit_rows: int = 10_000
    audit_seconds: float = 0.25
    spool: Path = field(default_factory=_spool)
    webhook_seconds: float = 10.0
    webhook_in_flight: int = 128
    webhook_held_bytes: int = 33_554_432
    webhook_events: int = 5_000
    usecases: str = ""
    out_of_range: str = "flag"

    def __post_init__(self) -> None:
        if not 0 <= self.clock_skew_seconds <= 60:
            raise _unusable("clock_skew_seconds", self.clock_skew_seconds, "Give 0 to 60 seconds.")
        if self.out_of_range not in ("flag", "refuse"):
            raise _unusable("out_of_range", self.out_of_range, "Give flag or refuse.")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> GatewayOptions:
        """Read ``FASTTRACK_GATEWAY_SPOOL``, ``FASTTRACK_GATEWAY_MAX_IN_FLIGHT`` and so on.

        Raises:
            ConfigurationError: a value is not a number where one is needed, or is out of its range.
        """
        env = os.environ if environ is None else environ
        found: dict[str, Any] = {}
        for option in fields(cls):
            text = env.get(PREFIX + option.name.upper())
            if text is None:
                continue
            convert = {"float": float, "int": int, "Path": Path, "str": str}[str(option.type)]
            try:
                found[option.name] = convert(text)
            except ValueError as error:
                raise _unusable(
                    option.name, text, f"Give {'a whole number' if convert is int else 'a number'}."
                ) from error
        return cls(**found)


def _unusable(name: str, value: object, fix: str) -> ConfigurationError:
    return ConfigurationError(f"the value {value!r} can't be used.", where=PREFIX + name.upper(), fix=fix)
