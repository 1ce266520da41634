from __future__ import annotations

from typing import Any

import pytest

from fasttrack.errors import UseCaseError
from fasttrack.evaluation.gate import decide
from tests.unit.learning_table import usecase

Metrics = dict[str, Any]


def metrics(**changes: Any) -> Metrics:
    found: Metrics = {
        "model": {"auc": 0.75, "interval_coverage": 0.9, "calibration_error": 0.02},
        "baselines": {"group_mean": {"auc": 0.6}, "trees": {"auc": 0.76}},
        "slices": {"depot": {"east": {"rows": 900.0, "auc": 0.7}, "west": {"rows": 30.0, "auc": 0.2}}},
        "baseline_slices": {
            "group_mean": {"depot": {"east": {"auc": 0.5}, "west": {"auc": 0.5}}},
            "trees": {"depot": {"east": {"auc": 0.8}, "west": {"auc": 0.8}}},
        },
    }
    return {**found, **changes}


def gate(threshold: dict[str, Any], *, slices: bool = False) -> dict[str, Any]:
    return {
        "thresholds": [{"metric": "auc", "at_least": 0.1}] if slices else [threshold],
        "slice_thresholds": [threshold] if slices else [],
        "slices": ["depot"],
        "slice_min_rows": 50,
    }


@pytest.mark.parametrize(
    ("threshold", "accepted"),
    [
        ({"metric": "auc", "at_least": 0.75}, True),
        ({"metric": "auc", "at_least": 0.7501}, False),
        ({"metric": "calibration_error", "at_most": 0.02}, True),
        ({"metric": "calibration_error", "at_most": 0.0199}, False),
        ({"metric": "auc", "minus_baseline": "trees", "at_least": -0.02}, True),
        ({"metric": "auc", "minus_baseline": "trees", "at_least": 0.0}, False),
        ({"metric": "auc", "minus_baseline": "group_mean", "at_least": 0.1}, True),
        ({"metric": "auc", "minus_baseline": "group_mean", "at_most": 0.1}, False),
    ],
)
def test_thresholds(threshold: dict[str, Any], accepted: bool) -> None:
    decision = decide(usecase(gate=gate(threshold)), metrics())
    assert decision.accepted is accepted
    assert len(decision.reasons) == (not accepted)
    assert len(decision.checks) == 1


@pytest.mark.parametrize(
    ("threshold", "accepted"),
    [
        ({"metric": "auc", "at_least": 0.65}, True),
        ({"metric": "auc", "at_least": 0.71}, False),
        ({"metric": "auc", "minus_baseline": "trees", "at_least": -0.11}, True),
        ({"metric": "auc", "minus_baseline": "trees", "at_least": -0.09}, False),
    ],
)
def test_slice_thresholds_hold_for_large_slices_only(threshold: dict[str, Any], accepted: bool) -> None:
    decision = decide(usecase(gate=gate(threshold, slices=True)), metrics())
    assert decision.accepted is accepted
    assert not any("west" in check.subject for check in decision.checks)
    assert accepted or "depot=east" in decision.reasons[0]


@pytest.mark.parametrize("undefined", [None, float("nan")])
@pytest.mark.parametrize("bound", ["at_least", "at_most"])
def test_an_undefined_number_is_refused(undefined: float | None, bound: str) -> None:
    found = metrics(model={"auc": undefined})
    decision = decide(usecase(gate=gate({"metric": "auc", bound: 0.5})), found)
    assert not decision.accepted
    assert "undefined" in decision.reasons[0]


def test_reasons_can_be_read() -> None:
    decision = decide(usecase(gate=gate({"metric": "auc", "minus_baseline": "trees", "at_least": 0.0})), metrics())
    assert decision.reasons == ["auc - trees is -0.0100, but must be >= 0"]


@pytest.mark.parametrize(
    ("threshold", "says"),
    [
        ({"metric": "accuracy", "at_least": 0.5}, "accuracy"),
        ({"metric": "auc", "minus_baseline": "forest", "at_least": 0.5}, "forest"),
        ({"metric": "mae", "minus_baseline": "trees", "at_least": 0.5}, "mae"),
    ],
)
def test_a_threshold_on_nothing_is_an_error(threshold: dict[str, Any], says: str) -> None:
    with pytest.raises(UseCaseError) as caught:
        decide(usecase(gate=gate(threshold)), metrics())
    assert says in str(caught.value)
    assert caught.value.where == "gate.thresholds[0]"
