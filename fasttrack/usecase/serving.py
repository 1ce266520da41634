"""How the model is served, to whom, and how good the data must be."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Self

from pydantic import Field, model_validator

from fasttrack.usecase.durations import Duration
from fasttrack.usecase.streams import Strict

ExplanationMethod = Literal["shap", "lime", "amortized", "permutation"]
Action = Literal["predict", "explain", "infer", "metadata", "admin"]


class RateLimit(Strict):
    """GCRA: `requests` a `per`, with bursts of `burst`."""

    requests: int = Field(600, gt=0)
    per: Duration = timedelta(minutes=1)
    burst: int = Field(60, gt=0)


class ServiceLevel(Strict):
    """What callers are promised; deadlines and alerts are made from it."""

    latency_p99: Duration = timedelta(milliseconds=250)
    availability: float = Field(0.999, gt=0, lt=1)
    deadline: Duration = Field(timedelta(seconds=5), description="after this a request is given up")


class Variant(Strict):
    """A compressed form of the model: packaged in its place if it scores as well and the gate accepts it."""

    quantization: Literal["int8"] | None = Field(
        None, description="int8: weights of a quarter of the bytes, hidden layers computed with integers, on CPUs"
    )
    pruning: float = Field(
        0.0, ge=0, le=0.9, description="share of the hidden units removed, before a short fine-tuning on training rows"
    )
    tolerance: float = Field(
        0.01, ge=0, le=0.5, description="how much worse than the full model it may be by each metric of "
        "gate.thresholds on the validation split, as a share of the full model's score",
    )  # fmt: skip

    @model_validator(mode="after")
    def _compresses(self) -> Self:
        if self.quantization is None and not self.pruning:
            raise ValueError("give quantization, pruning, or both")
        return self


class Serving(Strict):
    """Serving options."""

    service_level: ServiceLevel = ServiceLevel()
    in_process: bool = Field(
        False, description="the model is in the transformer's process: less work and time a request, but both have the "
        "same hardware; otherwise the predictor is a server of its own, beside the transformer",
    )  # fmt: skip
    cache: Duration = Field(timedelta(minutes=5), description="how long an answer is cached; 0s turns it off")
    rate_limit: RateLimit = Field(RateLimit(), description="of each caller")
    tenant_quota: RateLimit | None = Field(None, description="of all callers of a tenant together")
    query_budget: RateLimit | None = Field(
        None, description="predictions that a caller may ask the model for, rows of tensors counted one by one: "
        "against copying the model by asking it",
    )  # fmt: skip
    score_digits: int = Field(6, ge=0, le=6, description="decimals of probabilities; fewer tell less of the model")
    out_of_range: Literal["flag", "refuse"] | None = Field(
        None, description="what is done with values outside the training range; default: as the gateway is set"
    )
    out_of_distribution: Literal["ignore", "flag", "refuse"] = Field(
        "flag", description="what is done with rows whose features together are unlike the training rows"
    )
    novelty_level: float = Field(0.001, gt=0, le=0.05, description="share of ordinary rows that may be taken for such")
    explanations: tuple[ExplanationMethod, ...] = Field(
        ("shap", "lime"),
        strict=False,
        description="what callers may ask for, the first by default; amortized trains an explainer beside the model, "
        "permutation is the SHAP library's own explainer",
    )
    top_features: int = Field(5, gt=0)
    variant: Variant | None = Field(None, description="serve a compressed form of the model, where it is good enough")
    online_freshness: Duration = Field(timedelta(days=2), description="older online features are refused as stale")


class Role(Strict):
    """What the bearers of a role may do with this use case; whatever is not listed is denied."""

    may: tuple[Action, ...] = Field(min_length=1, strict=False)
    tenants: tuple[str, ...] | None = Field(
        None, min_length=1, strict=False, description="only bearers of these tenants; default: of any"
    )

    def grants(self, tenant: str) -> tuple[Action, ...]:
        """What a bearer who belongs to `tenant` may do."""
        return self.may if self.tenants is None or tenant in self.tenants else ()


class Quality(Strict):
    """Limits on the feature table that fail the run."""

    max_missing: float = Field(0.5, ge=0, le=1, description="largest share of missing values in any numeric column")
    allow_missing: dict[str, float] = Field(default_factory=dict, description="other limits, by column or definition")
    min_rows: int = Field(100, ge=0)
    max_label_missing: float = Field(0.1, ge=0, le=1)
    freshness: Duration | None = Field(None, description="longest gap between the newest event and the newest row")
    max_dead_letters: float = Field(0.05, ge=0, le=1, description="largest share of dead letters in a drain")


class Replay(Strict):
    """What `fasttrack replay` adds to a clean history, so that the drain has something to prove."""

    source: str = Field(description="`module:function` or `path.py:function` giving the events of each stream")
    seed: int = 0
    duplicates: float = Field(0.0, ge=0, lt=1, description="share of events sent twice")
    malformed: float = Field(0.0, ge=0, lt=1, description="share of damaged extra messages")
    disorder: Duration = Field(timedelta(0), description="bound on how far events are shuffled in event time")
