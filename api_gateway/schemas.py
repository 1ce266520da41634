"""Bodies of the ``/v1`` routes as the OpenAPI document shows them; the checks themselves are in `validation`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from fasttrack.rollout.arms import Arm
from fasttrack.rollout.plan import Mode, Plan
from fasttrack.rollout.records import Decision, Status
from fasttrack.usecase.serving import ExplanationMethod


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Subject(_Body):
    """Exactly one of `entity`, `features` and `event`."""

    entity: dict[str, str] | None = Field(None, description="keys of the entity; its features are looked up")
    features: dict[str, float | str | list[list[float | None]] | None] | None = Field(
        None, description="raw features by name, instead of the looked-up ones"
    )
    event: dict[str, str | float | bool | None] | None = Field(
        None, description="fields of a prediction event that was not sent yet; what it is about is looked up"
    )


class PredictRequest(Subject):
    """What to predict, and whether to explain it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"entity": {"id": "42"}, "explain": "shap"}]},
    )
    explain: bool | ExplanationMethod = Field(False, description="true takes the use case's first method")


class ExplainRequest(Subject):
    """What to explain, and by which method."""

    method: ExplanationMethod | None = Field(None, description="default: the use case's first method")


class Interval(_Body):
    """Where the value lies with probability `coverage`."""

    lower: float
    upper: float
    coverage: float


class PredictedValue(_Body):
    """Class and value with their uncertainty."""

    class_: str = Field(alias="class", description="the more probable class")
    probability: float = Field(description="of the positive class, calibrated")
    value: float = Field(description="in `unit`")
    unit: str
    interval: Interval


class Contribution(_Body):
    """What one feature added to the probability."""

    feature: str
    value: Any = None
    contribution: float = Field(description="in points of probability")


class Explanation(_Body):
    """The features that mattered most, by absolute contribution."""

    method: str
    base_value: float | None
    features: list[Contribution]


class Model(_Body):
    """The model version that answered."""

    version: int
    digest: str


class Warning_(_Body):
    """Something that the caller should know about the answer."""

    code: str
    detail: str
    feature: str | None = None


class Experiment(_Body):
    """The rollout that the request took part in."""

    rollout: str = Field(description="its id")
    mode: Mode
    arm: Arm = Field(description="whose model answered: where the challenger fails, the champion does")


class PredictResponse(_Body):
    """A prediction."""

    usecase: str
    prediction: PredictedValue
    explanation: Explanation | None
    model: Model
    as_of: str | None = Field(description="the moment that the looked-up features describe")
    warnings: list[Warning_]
    experiment: Experiment | None = Field(None, description="absent while no rollout runs")
    cached: bool
    trace_id: str


class ExplainResponse(_Body):
    """An explanation."""

    usecase: str
    explanation: Explanation
    model: Model
    warnings: list[Warning_]
    cached: bool
    trace_id: str


class UseCaseSummary(_Body):
    """A use case that the token may see."""

    name: str
    description: str
    model: Model
    may: list[str] = Field(description="the actions that the token's roles grant")


class UseCaseList(_Body):
    """The use cases that the token may see."""

    usecases: list[UseCaseSummary]


class UseCaseDetail(UseCaseSummary):
    """Everything that a caller needs to ask for predictions."""

    entity: dict[str, Any]
    prediction: dict[str, Any]
    event: dict[str, Any] = Field(description="JSON Schema of a prediction event; any field may be left out")
    features: list[dict[str, Any]]
    signature: dict[str, Any]
    roles: dict[str, list[str]]
    explanations: list[str]
    limits: dict[str, Any]


class RolloutStart(_Body):
    """Begin a rollout."""

    version: int = Field(gt=0, lt=2**31, description="the challenger; its servers must run")
    plan: Plan = Plan()
    why: str = Field(min_length=1, max_length=500, description="kept with the decision")


class RolloutDecision(_Body):
    """Promote or abort a rollout."""

    why: str = Field(min_length=1, max_length=500, description="kept with the decision")


class RolloutEvent(_Body):
    """A decision on a rollout, with the counts and evidence of that moment."""

    at: str
    action: Decision
    who: str
    why: str
    facts: dict[str, Any]


class Odds(_Body):
    """Evidence on a metric, as natural logarithms of betting odds (log e-values)."""

    worse: float
    no_worse: float


class RolloutStatus(_Body):
    """A rollout as it stands."""

    id: str
    usecase: str
    champion: int
    challenger: int
    plan: Plan
    status: Status
    step: int
    live: bool = Field(description="somebody decides on it, so the challenger gets its share")
    percent: float = Field(description="of the keys that are the challenger's now")
    slow_seconds: float | None
    counted: dict[str, Any] = Field(description="in this step, by arm")
    overall: dict[str, Any] = Field(description="since the start, by arm")
    odds: dict[str, Odds]
    why: str = Field(description="what is waited for, or why it ended")
    started_at: str
    step_since: str
    ended_at: str | None
    events: list[RolloutEvent]


class WebhookReceipt(_Body):
    """The events of a webhook are in their topic."""

    events: int = Field(description="how many the body held")
    redelivered: bool = Field(description="they were there already, from an earlier delivery with the same id and body")
    trace_id: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    where: str | None = None
    fix: str | None = None
    instance: str | None = None
    trace_id: str | None = None
