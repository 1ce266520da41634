"""A features job or a publication is cancelled, killed or too slow: nothing is left, or what was there before."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fasttrack.errors import DeadlineError
from fasttrack.kubeflow.cluster.kinds import INFERENCE_SERVICE, POD, SPARK_APPLICATION, Object
from fasttrack.kubeflow.launchers import Launchers, publish, spark
from fasttrack.usecase import canonical_text, load
from tests.cluster.launcher_rig import Rig, rig
from tests.cluster.stage import Background, model_version, until, write_answer

USECASE = Path(__file__).parents[2] / "examples/flights/usecase.yaml"
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("ends"), load(USECASE)) as made:
        yield made


def driver(room: Rig) -> Object:
    """The driver's pod, as soon as the operator has seen it run."""

    def running() -> list[Object]:
        found = room.cluster.list(SPARK_APPLICATION, room.namespace)
        state = found[0].get("status", {}).get("applicationState", {}).get("state") if found else ""
        return room.pods("spark-role=driver") if state == "RUNNING" else []

    (pod,) = until(running, 150, lambda: f"no driver runs: {sorted(room.left().values())}")
    return pod


@pytest.mark.parametrize("number", SIGNALS)
def test_a_cancelled_features_job_takes_its_driver_with_it(room: Rig, number: signal.Signals) -> None:
    with room.child("features", f"cancel-{number.name.lower()}") as process:
        driver(room)
        process.send_signal(number)
        assert process.wait(timeout=90) != 0
    assert not room.cluster.list(SPARK_APPLICATION, room.namespace), "the step ends when its application is gone"
    room.wait_clean(60)


def test_a_features_job_that_takes_too_long_is_ended(room: Rig) -> None:
    at = room.step("features", "slow")
    call = Background(lambda: spark.features(room.place(features=25.0), at, {"flights": 3}))
    until(lambda: room.cluster.list(SPARK_APPLICATION, room.namespace), 20)
    with pytest.raises(DeadlineError, match="not finished after 25 s"):
        call.join()
    room.wait_clean(60)


def test_a_killed_features_step_is_followed_by_its_retry(room: Rig) -> None:
    with room.child("features", "retried") as process:
        pod = driver(room)
        process.kill()
    (application,) = room.cluster.list(SPARK_APPLICATION, room.namespace)
    at = room.step("features", "retried")
    call = Background(lambda: spark.features(room.place(features=240.0), at, {"flights": 3}))
    table = {"path": "/lake/t", "fingerprint": "ab", "rows": 3, "reused": False}
    answer = {"table": table, "quality": {}, "online": {}}
    write_answer(at.folder, application["metadata"]["name"], answer)
    room.end(pod)
    assert call.join(120) == answer
    assert at.record["cluster"]["uid"] == application["metadata"]["uid"], "the retry must not start a second one"
    room.wait_clean(60)


def test_what_a_killed_features_step_left_goes_with_its_pod(room: Rig) -> None:
    with room.child("features", "orphan") as process:
        driver(room)
        process.kill()
    assert room.left()
    room.cluster.delete(POD, "step-orphan", room.namespace, grace=0, foreground=False)
    room.wait_clean(60)


def test_the_end_of_the_run_sweeps_what_a_killed_features_step_left(room: Rig) -> None:
    with room.child("features", "swept") as process:
        driver(room)
        process.kill()
    swept = Launchers(room.place()).sweep("swept", room.usecase.name)
    assert [word.split()[0] for word in swept] == ["SparkApplication", "ConfigMap"]
    room.wait_clean(60)


def served(room: Rig) -> str:
    """The package of the version that the InferenceService names; empty if there is none."""
    found = room.cluster.find(INFERENCE_SERVICE, "flights", room.namespace)
    return str(found["spec"]["predictor"]["model"]["storageUri"]).rpartition("/")[2] if found else ""


@pytest.fixture
def first(room: Rig) -> Iterator[None]:
    """Version 1 is served, and there is no room for the pods of another."""
    publish.serve(
        room.place(publish=90.0), room.step("publish", "first"), model_version(1), canonical_text(room.usecase)
    )
    empty = room.fill(len(room.pods("")) + 1)
    try:
        yield
    finally:
        empty()
        room.cluster.delete(INFERENCE_SERVICE, "flights", room.namespace, wait=60)
        room.wait_clean(60)


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_cancelled_publication_puts_back_what_was_served_before(room: Rig, number: signal.Signals) -> None:
    with room.child("publish", f"publish-{number.name.lower()}") as process:
        until(lambda: served(room) == "v2", 60)
        process.send_signal(number)
        assert process.wait(timeout=90) != 0
    assert served(room) == "v1"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_cancelled_first_publication_leaves_nothing(room: Rig, number: signal.Signals) -> None:
    empty = room.fill(len(room.pods("")) + 1)
    try:
        with room.child("publish", f"only-{number.name.lower()}") as process:
            until(lambda: served(room) == "v2", 60)
            process.send_signal(number)
            assert process.wait(timeout=90) != 0
        assert served(room) == ""
    finally:
        empty()
    room.wait_clean(60)


def test_a_killed_publication_is_ended_by_its_retry(room: Rig) -> None:
    empty = room.fill(len(room.pods("")) + 1)
    try:
        with room.child("publish", "published") as process:
            until(lambda: served(room) == "v2", 60)
            process.kill()
    finally:
        empty()
    at = room.step("publish", "published")
    publish.serve(room.place(publish=120.0), at, model_version(2), canonical_text(room.usecase))
    assert (served(room), at.record["reused"]) == ("v2", True)
    room.cluster.delete(INFERENCE_SERVICE, "flights", room.namespace, wait=60)
    room.wait_clean(60)
