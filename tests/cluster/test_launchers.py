"""Steps that launch objects, driven against a real API server and the real operators; pods are ended by hand."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fasttrack.errors import ConfigurationError, DeadlineError, StepError, UnavailableError
from fasttrack.kubeflow.cluster.kinds import (
    POD,
    TRAIN_JOB,
    Kind,
    Object,
)
from fasttrack.kubeflow.launchers import Launchers, train
from fasttrack.kubeflow.run_options import RunOptions
from fasttrack.usecase import UseCase, load
from tests.cluster.launcher_rig import Rig, rig
from tests.cluster.stage import Background, conditions, until, write_model

USECASE = Path(__file__).parents[2] / "examples/flights/usecase.yaml"
NODES = "jobset.sigs.k8s.io/replicatedjob-name=node"
GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module")
def usecase() -> UseCase:
    return load(USECASE)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, usecase: UseCase) -> Iterator[Rig]:
    with rig(tmp_path_factory.mktemp("launchers"), usecase) as made:
        yield made


def fitting(room: Rig, run_id: str, *, place: Any = None) -> tuple[Background, Any, Path]:
    at, folder = room.step("train-1", run_id), room.folder / f"model-{run_id}"
    where = place or room.place()
    call = Background(lambda: train.fit(where, at, "train-1", "/lake/f", "mlp", {"hidden": 64}, folder))
    return call, at, folder


def nodes(room: Rig) -> list[Object]:
    return until(lambda: found if len(found := room.pods(NODES)) == 2 else [], 60)


def running(room: Rig) -> list[Object]:
    def all_run() -> list[Object]:
        found = room.pods(NODES)
        return found if len(found) == 2 and all(pod["status"].get("phase") == "Running" for pod in found) else []

    return until(all_run, 60)


def finish(room: Rig, folder: Path, pods: list[Object]) -> None:
    write_model(folder)
    for pod in pods:
        room.end(pod)


def test_a_fit_brings_back_what_its_local_twin_would_and_leaves_nothing(room: Rig) -> None:
    call, at, folder = fitting(room, "success")
    pods = running(room)
    job = room.cluster.list(TRAIN_JOB, room.namespace)[0]
    assert [owner["uid"] for owner in job["metadata"]["ownerReferences"]] == [room.step_pod["metadata"]["uid"]]
    assert job["metadata"]["labels"]["fasttrack.ai/run"] == "success"
    mounted = [volume["configMap"]["name"] for volume in pods[0]["spec"]["volumes"] if "configMap" in volume]
    assert mounted == [job["metadata"]["name"]], "the pods see the run's own use case"
    finish(room, folder, pods)
    assert call.join() == {"scores": {"auc": 0.7, "mae": 9.0}, "curve": [{"epoch": 1.0, "auc": 0.7, "mae": 9.0}]}
    assert at.record["cluster"]["attempts"] == 1
    assert {pod["phase"] for pod in at.record["cluster"]["pods"]} == {"Succeeded"}
    room.wait_clean()


def test_a_pod_without_memory_fails_the_step_with_the_cure(room: Rig) -> None:
    call, at, _ = fitting(room, "memory")
    first, _ = running(room)
    room.end(first, 137, reason="OOMKilled")
    with pytest.raises(StepError, match=r"want of memory \(its limit is 4Gi\)"):
        call.join()
    assert at.record["cluster"]["troubles"][0]["code"] == "out-of-memory"
    room.wait_clean()


def test_a_preempted_fit_is_started_again(room: Rig) -> None:
    call, at, folder = fitting(room, "preempted")
    first, _ = running(room)
    before = room.cluster.list(TRAIN_JOB, room.namespace)[0]["metadata"]["uid"]
    room.end(first, 143, conditions=conditions("DisruptionTarget", "PreemptionByScheduler"))
    until(lambda: [j for j in room.cluster.list(TRAIN_JOB, room.namespace) if j["metadata"]["uid"] != before], 60)
    finish(room, folder, running(room))
    assert call.join()["scores"]["auc"] == 0.7
    assert at.record["cluster"]["attempts"] == 2
    room.wait_clean()


def test_a_fit_that_takes_too_long_is_ended(room: Rig) -> None:
    call, _, _ = fitting(room, "slow", place=room.place(train=5.0))
    with pytest.raises(DeadlineError, match="not finished after 5 s"):
        call.join()
    room.wait_clean()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_step_takes_its_objects_with_it(room: Rig, number: signal.Signals) -> None:
    with room.child("train", f"cancel-{number.name.lower()}") as process:
        nodes(room)
        process.send_signal(number)
        assert process.wait(timeout=60) != 0
    room.wait_clean()


def test_a_killed_step_is_followed_by_its_retry(room: Rig) -> None:
    with room.child("train", "retried") as process:
        running(room)
        process.kill()
    uid = room.cluster.list(TRAIN_JOB, room.namespace)[0]["metadata"]["uid"]
    at = room.step("train-1", "retried")
    folder = room.folder / "retried"
    call = Background(lambda: train.fit(room.place(), at, "train-1", "/f", "mlp", {"hidden": 64}, folder))
    finish(room, folder, running(room))
    call.join()
    assert at.record["cluster"]["uid"] == uid, "the retry must not start a second one"
    room.wait_clean()


def test_what_a_killed_step_left_goes_with_its_pod(room: Rig) -> None:
    with room.child("train", "orphan") as process:
        running(room)
        process.kill()
    assert room.left()
    # As a kubelet or Argo deletes it. In the foreground its TrainJob would stay until its JobSet is gone, and Trainer
    # 2.3, which doesn't see that the TrainJob is being deleted, makes the JobSet anew: 4 to 70 s long.
    room.cluster.delete(POD, "step-orphan", room.namespace, grace=0, foreground=False)
    room.wait_clean()


def test_the_end_of_the_run_sweeps_what_a_killed_step_left(room: Rig) -> None:
    with room.child("train", "swept") as process:
        running(room)
        process.kill()
    swept = Launchers(room.place()).sweep("swept", room.usecase.name)
    assert [word.split()[0] for word in swept] == ["TrainJob", "ConfigMap"]
    room.wait_clean()


@pytest.fixture
def no_gpu_free(room: Rig) -> Iterator[None]:
    """Pods that hold every GPU of the cluster, if it has any."""
    nodes = room.cluster.list(Kind("v1", "Node"))
    counts = {node["metadata"]["name"]: int(node["status"].get("allocatable", {}).get(GPU, 0)) for node in nodes}
    held = [room.hold_gpus(name, count) for name, count in counts.items() if count]
    until(lambda: all(room.cluster.get(POD, name, room.namespace)["spec"].get("nodeName") for name in held), 60)
    yield
    for name in held:
        room.cluster.delete(POD, name, room.namespace, grace=0, wait=30)


@pytest.mark.usefixtures("no_gpu_free")
def test_a_fit_without_a_free_gpu_says_so(room: Rig) -> None:
    call, at, _ = fitting(room, "gpu", place=replace(room.place(), options=RunOptions(gpus=True)))
    with pytest.raises(UnavailableError, match="want of a GPU") as caught:
        call.join()
    assert "add a node with GPUs" in str(caught.value)
    assert at.record["cluster"]["troubles"][0]["code"] == "no-gpu"
    room.wait_clean()


def test_an_image_that_is_not_there_is_named(room: Rig) -> None:
    call, _, _ = fitting(room, "image")
    pod = running(room)[0]
    state = {"waiting": {"reason": "ImagePullBackOff", "message": "manifest unknown"}}
    image = pod["spec"]["containers"][0]["image"]
    status = {"name": "node", "image": image, "imageID": "", "ready": False, "restartCount": 0, "state": state}
    room.set_status(pod, {"phase": "Pending", "containerStatuses": [status]})
    with pytest.raises(
        ConfigurationError, match=r"image can't be pulled: registry.invalid/fasttrack/trainer:\S+ is not there"
    ):
        call.join()
    room.wait_clean()


def test_an_exceeded_quota_is_told(room: Rig) -> None:
    empty = room.fill(0)
    try:
        call, _, _ = fitting(room, "quota")
        with pytest.raises(ConfigurationError, match="quota exceeded: full"):
            call.join()
    finally:
        empty()
    room.wait_clean()


def test_a_missing_runtime_is_refused_by_the_webhook_and_nothing_is_left(room: Rig) -> None:
    runtime = Kind("trainer.kubeflow.org/v1alpha1", "TrainingRuntime")
    kept = room.cluster.get(runtime, "fasttrack-torch", room.namespace)
    room.cluster.delete(runtime, "fasttrack-torch", room.namespace, wait=20)
    try:
        call, _, _ = fitting(room, "refused")
        with pytest.raises(ConfigurationError, match="webhook refused"):
            call.join()
    finally:
        kept["metadata"] = {key: kept["metadata"][key] for key in ("name", "namespace", "labels")}
        room.cluster.apply(kept, force=True)
    room.wait_clean()
