"""What the registry keeps, as typed records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args
from uuid import UUID, uuid4

Stage = Literal["candidate", "champion", "challenger", "archived"]
Decision = Literal["approved", "rejected"]
STAGES: tuple[Stage, ...] = get_args(Stage)
DECISIONS: tuple[Decision, ...] = get_args(Decision)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class ModelVersion:
    """A registered model package.

    Attributes:
        name: the model's name, which is the use case's.
        version: 1, 2, 3 ... for each name.
        digest: the package's digest, ``sha256:<hex>``.
        uri: where the package lies.
        stage: where it stands now; `Registry.stage_changes` has the history.
        metadata: whatever the caller wants to keep with it.
        metrics: the scores of ``metrics.json``.
        created_at: when it was registered (UTC).
    """

    name: str
    version: int
    digest: str
    uri: str
    stage: Stage
    metadata: dict[str, Any]
    metrics: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class Lineage:
    """What a version came from.

    Attributes:
        lake_versions: Delta version by stream.
        kafka_offsets: the next offset by partition, by topic.
        code_commit: the commit of the code that trained it.
        seed: the seed of the run.
        search_space: the search space that the parameters were chosen from.
        parent_version: the version that it was meant to replace, if there was one.
    """

    lake_versions: dict[str, int]
    kafka_offsets: dict[str, dict[str, int]]
    code_commit: str
    seed: int
    search_space: dict[str, Any]
    parent_version: int | None = None


@dataclass(frozen=True)
class Approval:
    """Somebody's decision on a version, with the reason."""

    who: str
    why: str
    decision: Decision
    at: datetime


@dataclass(frozen=True)
class StageChange:
    """A version's move to another stage; `previous_stage` is null at its registration."""

    version: int
    previous_stage: Stage | None
    stage: Stage
    who: str
    why: str
    at: datetime


@dataclass(frozen=True)
class Deployment:
    """What answers for a use case now.

    Attributes:
        usecase: the use case's name.
        version, digest, uri: the model version that is served.
        signature: the package's ``signature.json``.
        usecase_document: the use case as JSON.
        transformer_url, predictor_url, explainer_url: base URLs of the KServe servers.
        updated_at: when it was deployed (UTC).
    """

    usecase: str
    version: int
    digest: str
    uri: str
    signature: dict[str, Any]
    usecase_document: dict[str, Any]
    transformer_url: str
    predictor_url: str
    explainer_url: str
    updated_at: datetime


@dataclass(frozen=True)
class AuditRow:
    """One answered request. `latency_ms` is in milliseconds; `response` is null where it is not kept."""

    trace_id: str
    route: str
    status: int
    latency_ms: float
    usecase: str | None = None
    subject: str | None = None
    role: str | None = None
    tenant: str | None = None
    model_version: int | None = None
    digest: str | None = None
    request_hash: str | None = None
    cached: bool = False
    response: Mapping[str, Any] | None = None
    id: UUID = field(default_factory=uuid4)
    at: datetime = field(default_factory=_now)


@dataclass(frozen=True)
class PredictionRow:
    """One prediction: a probability, a value in the label's unit with its interval, and what it was made for."""

    usecase: str
    version: int
    entity: Mapping[str, Any]
    probability: float
    value: float
    lower: float
    upper: float
    trace_id: str
    explanation: Mapping[str, Any] | None = None
    prediction_id: UUID = field(default_factory=uuid4)
    at: datetime = field(default_factory=_now)
