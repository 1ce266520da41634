"""Rollouts as typed records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from fasttrack.registry.records import Deployment
from fasttrack.rollout.counts import Window
from fasttrack.rollout.plan import Plan
from fasttrack.rollout.verdict import Evidence

Status = Literal["running", "promoted", "rolled_back", "aborted"]
Decision = Literal["start", "advance", "promote", "roll_back", "abort"]


@dataclass(frozen=True)
class Running:
    """What a gateway needs of a rollout that runs.

    Attributes:
        id: of the rollout; the draw of arms depends on it.
        plan: what was asked for.
        step: index of the step it is in.
        slow_seconds: what counts as a slow answer; None until the champion has answered often enough.
        lease_seconds: for how long from now the challenger may get requests; 0 or less: it may not.
        target: the challenger's servers.
    """

    id: UUID
    plan: Plan
    step: int
    slow_seconds: float | None
    lease_seconds: float
    target: Deployment


@dataclass(frozen=True)
class Event:
    """A decision: who made it, why, and the counts and evidence of that moment."""

    at: datetime
    action: Decision
    who: str
    why: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Rollout:
    """A rollout as it stands.

    Attributes:
        step: index into the plan's steps.
        live: whether the challenger's lease holds: somebody decides, so it gets requests.
        evidence: for and against.
        counted, overall: in this step, and since the start.
        why: what is waited for, or why it ended.
        events: its decisions, oldest first.
    """

    id: UUID
    usecase: str
    champion: int
    challenger: int
    plan: Plan
    status: Status
    step: int
    live: bool
    slow_seconds: float | None
    evidence: Evidence
    counted: Window
    overall: Window
    why: str
    started_at: datetime
    step_since: datetime
    ended_at: datetime | None
    events: tuple[Event, ...] = ()
