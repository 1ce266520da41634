"""How a rollout goes: mode, key, steps, and how sure one must be before going on or back."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fasttrack.rollout.arms import Key

Mode = Literal["canary", "ab", "shadow"]


class Plan(BaseModel):
    """What was asked for at the start; it does not change.

    In mode `canary` the challenger's weight grows in `steps` and then it becomes the champion; in `ab` the first step
    stays until somebody decides; in `shadow` requests are mirrored to the challenger, which never answers. In canary
    and ab, a challenger that is shown to be worse is rolled back.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Mode = "canary"
    key: Key = Field("entity", description="what stays in one arm: entity, subject, tenant, or request (nothing)")
    steps: tuple[float, ...] = Field((5, 25, 50), min_length=1, description="the challenger's share, in percent")
    dwell_seconds: float = Field(60, gt=0, description="the least time that a step takes")
    keys: int = Field(300, ge=1, description="each arm's least number of keys in a step: no data, no promotion")
    tolerance: float = Field(0.01, gt=0, lt=1, description="a share of failing keys below which a ratio is no matter")
    ratio: float = Field(2, gt=1, description="failing this many times as often must be ruled out before going on")
    slow_ratio: float = Field(2, gt=1, description="the same for being slower than 95 % of the champion's answers")
    false_rollback: float = Field(0.01, gt=0, lt=0.5, description="probability of rolling a harmless challenger back")
    false_step: float = Field(0.05, gt=0, lt=0.5, description="probability of going on with a harmful one, a step")
    labels: bool = Field(False, description="go on only when labels show that quality is not worse")
    quality_margin: float = Field(0.02, gt=0, lt=1, description="a rise of the Brier score that is no matter")

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < step < 100 for step in steps) or sorted(set(steps)) != list(steps):
            raise ValueError("steps are percentages above 0 and below 100, each larger than the one before")
        return steps

    @model_validator(mode="after")
    def _one_step(self) -> Plan:
        if self.mode == "ab" and len(self.steps) > 1:
            raise ValueError("mode ab takes one step")
        return self

    def weight(self, step: int) -> float:
        """The challenger's share of the keys in a step, from 0 to 1."""
        return 0.0 if self.mode == "shadow" else self.steps[step] / 100
