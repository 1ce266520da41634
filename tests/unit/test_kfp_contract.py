"""The stand-in for KFP's API is held to what KFP's own client knows of it, and notices what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kfp_server_api  # type: ignore[import-untyped]
import pytest

from fasttrack.errors import AuthorizationError, NotFoundError, UnavailableError
from fasttrack.kubeflow import run_watch
from fasttrack.kubeflow.compile import render
from fasttrack.kubeflow.kfp_api import Api
from fasttrack.usecase import canonical_text, load
from tests.unit.kfp_contract import asked, breaches, operations
from tests.unit.kfp_double import kfp_server, run_as

USECASE = Path(__file__).parents[2] / "examples/flights/usecase.yaml"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "training.yaml"
    path.write_text(render(load(USECASE), registry="r.example", namespace="team", options=None)["kfp/training.yaml"])
    return path


@pytest.mark.parametrize("multi_user", [False, True])
@pytest.mark.parametrize("experiment", ["flights", "never-seen"])
def test_all_that_is_sent_and_answered_is_of_the_api(package: Path, multi_user: bool, experiment: str) -> None:
    with kfp_server() as kfp:
        kfp.multi_user = multi_user
        kfp.states = [
            run_as(state, {"train": state}, "why") for state in kfp_server_api.V2beta1RuntimeState.allowable_values
        ]
        api = Api.connect(kfp.host, "t", "team")
        started = api.start(
            pipeline_file=str(package),
            arguments={"usecase": canonical_text(load(USECASE)), "run_id": "run-1"},
            run_name="flights run-1",
            experiment_name=experiment,
            enable_caching=False,
            service_account="fasttrack-pipeline",
        )
        for state in list(kfp.states):
            assert str(api.run(started.run_id).state) == state["state"]
        (sent,) = kfp.started
    made = as_model(sent, "V2beta1Run")
    assert (made.display_name, made.experiment_id) == ("flights run-1", "e-1" if experiment == "flights" else "e-2")
    assert made.runtime_config.parameters["run_id"] == "run-1"


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (403, AuthorizationError, "no"),
        (404, NotFoundError, "no"),
        (500, UnavailableError, "KFP failed: no"),
        (503, UnavailableError, "does not answer .*: no"),
    ],
)
def test_a_refusal_is_of_the_api_too(status: int, error: type[Exception], told: str) -> None:
    with kfp_server() as kfp:
        kfp.states = [run_as("RUNNING", {})]
        api = Api.connect(kfp.host, "", "team")
        kfp.refuse = status
        with pytest.raises(error, match=told):
            api.run("kfp-1")


def test_the_states_that_end_a_run_are_states_of_the_api() -> None:
    assert set(kfp_server_api.V2beta1RuntimeState.allowable_values) >= run_watch._ENDED


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"state": "DONE"}, "V2beta1Run.state is none of"),
        ({"run_id": 7}, "V2beta1Run.run_id is no str"),
        ({"id": "r"}, "V2beta1Run has no id"),
        ({"created_at": "yesterday"}, "no date and time"),
        ({"created_at": "2026-01-01T00:00:00"}, "no time zone"),
        ({"run_details": {"task_details": {}}}, "task_details is no list"),
        ({"run_details": {"task_details": [{"name": "train"}]}}, "V2beta1PipelineTaskDetail has no name"),
        ({"error": {"code": True}}, "error.code is no int"),
        ({"runtime_config": {"parameters": ["a"]}}, "parameters is no dict"),
    ],
)
def test_what_is_not_of_the_api_is_noticed(value: Any, where: str) -> None:
    (found,) = breaches(value, "V2beta1Run")
    assert where in found


@pytest.mark.parametrize(
    ("method", "url", "body", "where"),
    [
        ("GET", "/apis/v2beta1/run/1", None, "no call"),
        ("PUT", "/apis/v2beta1/runs/1", None, "no call"),
        ("GET", "/apis/v2beta1/experiments?page=1", None, "no parameter page"),
        ("POST", "/apis/v2beta1/runs", None, "wants a V2beta1Run"),
        ("POST", "/apis/v2beta1/runs", {"pipeline": 1}, "has no pipeline"),
        ("GET", "/apis/v2beta1/runs/1", {"a": 1}, "takes no body"),
    ],
)
def test_a_request_that_is_not_of_the_api_is_noticed(method: str, url: str, body: Any, where: str) -> None:
    (found,) = asked(method, url, body)[1]
    assert where in found


def test_the_calls_are_read_from_the_client() -> None:
    paths = {(each.method, each.path, each.request, each.answer) for each in operations()}
    assert ("POST", "/apis/v2beta1/runs", "V2beta1Run", "V2beta1Run") in paths
    assert ("GET", "/apis/v2beta1/runs/[^/]+", "", "V2beta1Run") in paths
    assert ("GET", "/apis/v2beta1/healthz", "", "V2beta1GetHealthzResponse") in paths
    assert len(operations()) >= 40


def as_model(value: Any, name: str) -> Any:
    """A JSON value as the client makes a model of it, without anything lost."""
    client = kfp_server_api.ApiClient()
    made = client._ApiClient__deserialize(value, name)
    assert client.sanitize_for_serialization(made) == value
    return made
