"""What is learned: label, split, candidate models, tuning, gate."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from fasttrack.usecase.durations import Duration
from fasttrack.usecase.streams import Strict

Timestamp = Annotated[AwareDatetime, Field(strict=False)]


class PredictionPoint(Strict):
    """One prediction is made for each event of `stream`, at `time_field` minus `lead`."""

    stream: str
    entity: str
    time_field: str
    lead: Duration


class Label(Strict):
    """The truth, known only at the event time of `stream`."""

    stream: str
    field: str = Field(description="the number to predict")
    unit: str = ""
    late_above: float = Field(description="the event counts as positive when the number is above this")
    positive_name: str = Field("positive", description="the name of the positive class, e.g. late")


class Split(Strict):
    """Split by prediction time: [.., train_until) [train_until, validate_until) [validate_until, test_until)."""

    train_until: Timestamp
    validate_until: Timestamp
    test_until: Timestamp

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.train_until < self.validate_until < self.test_until:
            raise ValueError("train_until, validate_until and test_until must follow each other in time")
        return self

    def bounds(self) -> tuple[datetime, datetime, datetime]:
        """The three ends, in order."""
        return self.train_until, self.validate_until, self.test_until


class FloatParameter(Strict):
    """A real hyperparameter in [low, high]."""

    type: Literal["float"]
    low: float
    high: float
    log: bool = False


class IntParameter(Strict):
    """A whole-number hyperparameter in [low, high]."""

    type: Literal["int"]
    low: int
    high: int
    step: int = 1


class ChoiceParameter(Strict):
    """A hyperparameter out of a list."""

    type: Literal["choice"]
    choices: tuple[int | float | str, ...] = Field(min_length=1, strict=False)


Parameter = Annotated[FloatParameter | IntParameter | ChoiceParameter, Field(discriminator="type")]


class Candidate(Strict):
    """One model architecture and the parameters to search for it."""

    architecture: Literal["mlp", "lstm", "transformer"]
    search: dict[str, Parameter] = Field(default_factory=dict)


class Tuning(Strict):
    """How much is tried, and what is compared."""

    trials: int = Field(6, gt=0, description="trials in one round, over all candidates")
    parallel_trials: int = Field(1, gt=0)
    sample: float = Field(0.25, gt=0, le=1, description="share of the training rows that a trial sees")
    epochs: int = Field(2, gt=0)
    folds: int = Field(1, gt=0, le=10, description="time-ordered cross-validation folds a trial")
    metric: Literal["auc", "average_precision", "log_loss", "mae"] = "auc"
    algorithm: Literal["tpe", "random"] = "tpe"
    early_stopping: Literal["medianstop", "none"] = "medianstop"
    seed: int = 0


class Training(Strict):
    """The final fit of the chosen candidate."""

    epochs: int = Field(6, gt=0)
    batch_size: int = Field(1024, gt=0)
    workers: int = Field(2, gt=0, description="DDP processes (nodes on a cluster)")
    patience: int = Field(2, ge=0, description="epochs without improvement before stopping")
    seed: int = 0


class Threshold(Strict):
    """A metric's bound, absolute or relative to a baseline of the same report."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    minus_baseline: str | None = Field(None, description="compare the difference to this baseline's metric")

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give exactly one of at_least and at_most")
        return self


class Gate(Strict):
    """When a model may be published."""

    thresholds: tuple[Threshold, ...] = Field(min_length=1, strict=False)
    slices: tuple[str, ...] = Field((), strict=False, description="category columns by which metrics are reported")
    slice_thresholds: tuple[Threshold, ...] = Field(
        (), strict=False, description="bounds that every large slice must keep"
    )
    slice_min_rows: int = 500
    rounds: int = Field(2, gt=0, le=5, description="how often a refusal leads back to tuning before the run fails")
    coverage: float = Field(0.9, gt=0.5, lt=1, description="nominal coverage of the intervals")
