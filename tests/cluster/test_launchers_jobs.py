"""The other launched objects: SparkApplication, Experiment, InferenceService, with their real operators."""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fasttrack.errors import ConfigurationError, DataQualityError, UnavailableError
from fasttrack.kubeflow.cluster.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    INFERENCE_SERVICE,
    SPARK_APPLICATION,
    TRIAL,
    Object,
    kind_of,
)
from fasttrack.kubeflow.compiled import compiled_objects
from fasttrack.kubeflow.launchers import publish, spark, tune
from fasttrack.usecase import UseCase, load
from tests.cluster.launcher_rig import Rig, rig
from tests.cluster.stage import Background, model_version, until, write_answer

USECASE = Path(__file__).parents[2] / "examples/flights/usecase.yaml"
TRIALS = 2


@pytest.fixture(scope="module")
def usecase() -> UseCase:
    found = load(USECASE)
    # The suggestion service of the tests' cluster knows no early stopping.
    less = {"early_stopping": "none", "trials": TRIALS, "parallel_trials": TRIALS}
    few = tuple(candidate for candidate in found.models if candidate.architecture == "mlp")
    return found.model_copy(update={"models": few, "tuning": found.tuning.model_copy(update=less)})


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, usecase: UseCase) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("launched"), usecase) as made:
        yield made


def driver(room: Rig) -> tuple[Object, Path]:
    pods = until(lambda: room.pods("spark-role=driver"), 150)
    until(lambda: _state(room) == "RUNNING", 60)
    return pods[0], room.folder


def _state(room: Rig) -> str:
    found = room.cluster.list(SPARK_APPLICATION, room.namespace)
    return str(found[0].get("status", {}).get("applicationState", {}).get("state")) if found else ""


@pytest.mark.parametrize("good", [True, False])
def test_a_feature_job_brings_back_its_drivers_answer(room: Rig, good: bool) -> None:
    at = room.step("features", f"spark-{good}")
    call = Background(lambda: spark.features(room.place(features=240.0), at, {"flights": 3}))
    pod, _ = driver(room)
    name = room.cluster.list(SPARK_APPLICATION, room.namespace)[0]["metadata"]["name"]
    table = {"path": "/lake/t", "fingerprint": "ab", "rows": 3, "reused": False}
    error = {"error_type": "DataQualityError", "what": "too much is missing.", "where": "column seats", "fix": None}
    found = {"table": table, "quality": {}, "online": {}}
    write_answer(at.folder, name, found if good else {"error": error})
    room.end(pod, 0 if good else 7)
    if good:
        assert call.join(120) == found
    else:
        with pytest.raises(DataQualityError, match=r"column seats: too much is missing\."):
            call.join(120)
    room.wait_clean(60)


def test_a_version_is_served_once_and_put_back_if_the_next_one_does_not_come_up(room: Rig) -> None:
    text = USECASE.read_text()
    at = room.step("publish", "one")
    urls = publish.serve(room.place(publish=90.0), at, model_version(1), text)
    assert urls["transformer_url"] == f"http://flights-predictor.{room.namespace}.svc.cluster.local"
    assert at.record["reused"] is False
    publish.serve(room.place(publish=90.0), at, model_version(1), text)
    assert at.record["reused"] is True
    empty = room.fill(len(room.pods("")))
    try:
        with pytest.raises(UnavailableError, match="quota exceeded"):
            publish.serve(room.place(publish=8.0), at, model_version(2), text)
    finally:
        empty()
    served = room.cluster.list(INFERENCE_SERVICE, room.namespace)[0]
    assert served["spec"]["predictor"]["model"]["storageUri"] == "pvc://fasttrack-data/packages/flights/v1"
    assert at.record["cluster"]["put_back"] == "the version that was served before"
    room.cluster.delete(INFERENCE_SERVICE, "flights", room.namespace, wait=60)
    room.wait_clean(60)
    assert not [
        m for m in room.cluster.list(CONFIG_MAP, room.namespace) if m["metadata"]["name"].startswith("flights-")
    ]


def test_the_compiled_service_gets_its_first_version_whatever_else_of_the_use_case_had_trouble(room: Rig) -> None:
    compiled = next(
        each for each in compiled_objects(room.usecase, registry="", namespace=room.namespace) if is_service(each)
    )
    room.cluster.apply(compiled)
    assert compiled["metadata"]["annotations"]["serving.kserve.io/stop"] == "true"
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "old", "namespace": room.namespace},
        "type": "Warning",
        "reason": "FailedCreate",
        "message": 'pods "flights-tune-x" is forbidden: violates PodSecurity "restricted:latest": ...',
        "involvedObject": {"kind": "ReplicaSet", "name": "flights-tune-x", "namespace": room.namespace},
        "lastTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    room.cluster.apply(event)
    at = room.step("publish", "first")
    publish.serve(room.place(publish=90.0), at, model_version(1), USECASE.read_text())
    served = room.cluster.find(INFERENCE_SERVICE, "flights", room.namespace)
    assert served is not None and served["metadata"]["generation"] > 1
    found = room.cluster.list(DEPLOYMENT, room.namespace, labels="serving.kserve.io/inferenceservice=flights")
    assert len(found) == 2 and all(f"--digest={model_version(1).digest}" in str(each["spec"]) for each in found)
    room.cluster.delete(INFERENCE_SERVICE, "flights", room.namespace, wait=60)
    room.wait_clean(60)


def is_service(obj: Object) -> bool:
    return kind_of(obj) == INFERENCE_SERVICE


def report(trial: str, value: float) -> None:
    """What a metrics collector would tell Katib's database."""
    ports = json.loads((Path(os.environ["KUBECONFIG"]).parent / "ports.json").read_text())
    query = urllib.parse.urlencode({"trial": trial, "metric": "auc", "value": value})
    url = f"http://127.0.0.1:{ports['katib-services/health']}/report?{query}"
    urllib.request.urlopen(urllib.request.Request(url, method="POST"))


def test_a_search_brings_back_the_best_trial(tmp_path: Path, usecase: UseCase) -> None:
    # Katib 0.19 puts a collector into trial pods without what `restricted` wants, unless its own configuration says
    # injectSecurityContext, which the tests' cluster doesn't.
    with rig(tmp_path, usecase, "baseline") as room:
        at = room.step("tune-1")
        call = Background(lambda: tune.search(room.place(tune=240.0), at, "tune-1", "/lake/f", 1))
        told: dict[str, float] = {}

        def work() -> bool:
            for trial in room.cluster.list(TRIAL, room.namespace):
                if (name := trial["metadata"]["name"]) not in told:
                    told[name] = 0.6 + len(told) / 100
                    report(name, told[name])
            for pod in room.pods("jobset.sigs.k8s.io/replicatedjob-name=node"):
                if pod["status"].get("phase") == "Running":
                    room.end(pod)
            return not call.running

        until(work, 240)
        found = call.join()
        assert found["score"] == pytest.approx(max(told.values()), abs=1e-6)
        assert (found["architecture"], found["metric"], len(found["trials"])) == ("mlp", "auc", TRIALS)
        best = max(found["trials"], key=lambda trial: trial["scores"]["auc"])
        assert best["parameters"] == found["parameters"]
        room.wait_clean(60)


def test_a_restricted_namespace_admits_the_search_service_and_a_refusal_is_told(room: Rig) -> None:
    at = room.step("tune-1", "restricted")
    call = Background(lambda: tune.search(room.place(tune=90.0), at, "tune-1", "/lake/f", 1))
    until(lambda: room.pods("katib.kubeflow.org/deployment"), 60, lambda: "no pod of the search service was admitted")
    (deployment,) = room.cluster.list(DEPLOYMENT, room.namespace)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    # Its trials' pods are refused for the collector in them; what refused them is told.
    with pytest.raises(ConfigurationError, match="pod security refused its pod"):
        call.join(120)
    room.wait_clean(60)
