"""What is compiled for Katib and the Trainer, read with their own API models: nothing is unknown to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_katib_api.models import V1beta1Experiment
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from fasttrack.kubeflow.compile import render
from fasttrack.usecase import load

FLIGHTS = Path(__file__).parents[2] / "examples/flights/usecase.yaml"


@pytest.fixture(scope="module")
def experiment() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(render(load(FLIGHTS))["experiment.yaml"])
    return found


def test_katib_knows_every_field_of_the_experiment(experiment: dict[str, Any]) -> None:
    # The models drop what they don't know.
    assert V1beta1Experiment.from_dict(experiment).to_dict() == experiment
    misspelt = {**experiment, "spec": {**experiment["spec"], "maxTrialsCount": 3}}
    assert V1beta1Experiment.from_dict(misspelt).to_dict() != misspelt


def test_the_trainer_knows_every_field_of_a_trial(experiment: dict[str, Any]) -> None:
    trial = experiment["spec"]["trialTemplate"]["trialSpec"]
    assert TrainerV1alpha1TrainJob.from_dict(trial).to_dict() == trial
