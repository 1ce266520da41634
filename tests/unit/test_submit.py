"""`fasttrack submit` against KFP's API in its own client's words; the cluster's side is in tests/cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fasttrack.errors import AuthenticationError, ConfigurationError, StepError, StorageError, UnavailableError
from fasttrack.kubeflow import submit as module
from fasttrack.kubeflow.compile import compile_usecase
from fasttrack.kubeflow.kfp_api import Api
from fasttrack.kubeflow.objects import Options
from fasttrack.kubeflow.run_options import RunOptions
from fasttrack.kubeflow.run_watch import RunWatch
from fasttrack.usecase import load, parse
from tests.unit.kfp_double import Kfp, kfp_server, run_as

USECASE = Path(__file__).parents[2] / "examples/flights/usecase.yaml"
GPU = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."


@pytest.fixture
def kfp() -> Iterator[Kfp]:
    with kfp_server() as made:
        yield made


def pending_pod() -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": GPU}
    meta = {"name": "flights-train-node-0", "uid": "1", "labels": {}}
    return {"metadata": meta, "spec": {"containers": []}, "status": {"phase": "Pending", "conditions": [condition]}}


class Recorded:
    """A cluster that holds one pod."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.applied: list[str] = []

    def list(self, kind: Any, namespace: str, *, labels: str = "", fields: str = "") -> list[dict[str, Any]]:
        self.asked.append(labels)
        return [pending_pod()] if kind.kind == "Pod" and labels.startswith("fasttrack.ai/run") else []

    def serves(self, kind: Any) -> bool:
        return False

    def find(self, kind: Any, name: str, namespace: str = "") -> None:
        return None

    def apply(self, obj: dict[str, Any], *, force: bool = False) -> dict[str, Any]:
        self.applied.append(obj["kind"])
        return obj


def watching(kfp: Kfp, cluster: Recorded) -> RunWatch:
    api = Api.connect(kfp.host, "", "fasttrack")
    steps, told = ("drain", "train"), lambda: api.run("kfp-1")
    return RunWatch(cluster, "fasttrack", told, "run-1", "kfp-1", steps=steps, every=0.01)  # type: ignore[arg-type]


def test_a_run_is_followed_and_what_it_waits_for_is_told(kfp: Kfp, capsys: pytest.CaptureFixture[str]) -> None:
    kfp.states = [
        run_as("RUNNING", {"drain": "SUCCEEDED", "train": "RUNNING"}),
        run_as("FAILED", {"drain": "SUCCEEDED", "train": "FAILED"}, "exit 1"),
    ]
    watch = watching(kfp, Recorded())
    assert watch.follow() == "FAILED"
    assert watch.tasks == {"drain": "SUCCEEDED", "train": "FAILED"}
    assert (watch.failed, watch.reason) == ("train", "exit 1")
    assert [found["code"] for found in watch.troubles()] == ["no-gpu"]
    said = capsys.readouterr().err
    assert said.count("pending for want of a GPU") == 1, "a trouble is told once"
    assert "add a node with GPUs" in said


def test_a_step_whose_driver_fails_is_the_one_that_failed(kfp: Kfp) -> None:
    # Argo leaves out what depends on it, which has no state in KFP.
    kfp.states = [run_as("FAILED", {"drain": "RUNTIME_STATE_UNSPECIFIED"}, drivers="FAILED")]
    watch = watching(kfp, Recorded())
    assert watch.follow() == "FAILED"
    assert (watch.failed, watch.tasks) == ("drain", {"drain": "FAILED"})


@pytest.mark.parametrize(
    ("seen", "history", "state"),
    [
        ((), ("PENDING", "RUNNING", "CANCELING"), "CANCELED"),
        (("RUNNING", "CANCELING"), (), "CANCELED"),
        ((), ("PENDING", "RUNNING"), "FAILED"),
        # Terminated, then retried.
        (("RUNNING",), ("PENDING", "RUNNING", "CANCELING", "FAILED", "RUNNING"), "FAILED"),
    ],
)
def test_a_run_that_was_terminated_is_not_one_that_failed(
    kfp: Kfp, seen: tuple[str, ...], history: tuple[str, ...], state: str
) -> None:
    kfp.states = [run_as(each, {}) for each in seen] + [run_as("FAILED", {"drain": "FAILED"}, history=history)]
    assert watching(kfp, Recorded()).follow() == state


class Refusing(Recorded):
    """A cluster with no pod, and Argo's events of why."""

    def list(self, kind: Any, namespace: str, *, labels: str = "", fields: str = "") -> list[dict[str, Any]]:
        quota = "failed quota: team: must specify requests.cpu for: init,wait"
        told = [
            ("flights-training-x7k2p", None),
            ("flights-training-x7k2p", "(combined from similar events): Error node flights-training-x7k2p"),
            ("flights-training-x7k2p", f'Error node flights-training-x7k2p.drain: pods "p" is forbidden: {quota}'),
            ("flights-training-other", "Error node flights-training-other.drain: something else"),
        ]
        return [
            {"type": "Warning", "message": message, "involvedObject": {"kind": "Workflow", "name": name}}
            for name, message in (told if kind.kind == "Event" else ())
        ]


def test_a_pod_that_is_refused_is_told_by_argos_events(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp.states = [run_as("FAILED", {"drain": "FAILED"})]
    monkeypatch.setattr(module, "require_ready", lambda cluster, objects: [])
    watch = watching(kfp, Refusing())
    assert watch.follow() == "FAILED"
    assert watch.reason == 'pods "p" is forbidden: failed quota: team: must specify requests.cpu for: init,wait'
    with pytest.raises(ConfigurationError, match=r"must specify requests.cpu for: init,wait.*LimitRange") as told:
        module.submit(load(USECASE), Refusing(), host=kfp.host, run_id="run-1")  # type: ignore[arg-type]
    assert told.value.where == "run run-1, task drain, Workflow flights-training-x7k2p"


def test_a_cancelled_run_is_told_as_such(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    kfp.states = [run_as("FAILED", {"drain": "FAILED"}, history=("RUNNING", "CANCELING"))]
    monkeypatch.setattr(module, "require_ready", lambda cluster, objects: [])
    with pytest.raises(StepError, match="the run was cancelled"):
        module.submit(load(USECASE), Recorded(), host=kfp.host, run_id="run-1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "reason"), [("a: 1\n", "no pipeline"), ("root: {}\n", "no pipeline"), (": [", "YAML")]
)
def test_a_written_pipeline_that_is_none_is_refused(kfp: Kfp, tmp_path: Path, text: str, reason: str) -> None:
    compile_usecase(USECASE, tmp_path)
    (tmp_path / "kfp/training.yaml").write_text(text)
    cluster = Recorded()
    with pytest.raises(ConfigurationError, match=reason):
        module.submit(load(USECASE), cluster, host=kfp.host, run_id="r", folder=tmp_path)  # type: ignore[arg-type]
    assert (cluster.applied, kfp.started) == ([], [])


def test_the_compiled_pipeline_is_started_with_the_use_case_and_the_runs_name(
    kfp: Kfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp.states = [run_as("SUCCEEDED", {"drain": "SUCCEEDED"})]
    monkeypatch.setattr(module, "require_ready", lambda cluster, objects: [])
    cluster, usecase = Recorded(), load(USECASE)
    found = module.submit(usecase, cluster, host=kfp.host, run_id="run-1", registry="r.example", token="t")  # type: ignore[arg-type]
    assert (found.state, found.kfp_run) == ("SUCCEEDED", "kfp-1")
    (sent,) = kfp.started
    given = sent["runtime_config"]["parameters"]
    assert given["run_id"] == "run-1"
    assert "name: flights" in given["usecase"]
    assert sent["service_account"] == "fasttrack-pipeline"
    assert "r.example/fasttrack/train:" in json.dumps(sent["pipeline_spec"])
    assert {"ConfigMap", "PipelineVersion"} <= set(cluster.applied)
    assert set(kfp.accounts) == {"Bearer t"}


def test_what_would_be_refused_stops_it_before_anything_is_applied(kfp: Kfp, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(cluster: Any, objects: Any) -> None:
        raise ConfigurationError("quota exceeded")

    monkeypatch.setattr(module, "require_ready", refuse)
    cluster = Recorded()
    with pytest.raises(ConfigurationError):
        module.submit(load(USECASE), cluster, host=kfp.host, run_id="run-1")  # type: ignore[arg-type]
    assert (cluster.applied, kfp.started) == ([], [])


def test_a_compiled_folder_is_submitted_with_all_its_options(
    kfp: Kfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kfp.states = [run_as("SUCCEEDED", {"drain": "SUCCEEDED"})]
    monkeypatch.setattr(module, "require_ready", lambda cluster, objects: [])
    options = Options(gpus=True, executors=9, leave_out=("kafka",))
    compile_usecase(USECASE, tmp_path, registry="r.example", namespace="team", options=options)
    cluster, usecase = Recorded(), load(USECASE)
    module.submit(usecase, cluster, host=kfp.host, run_id="run-1", namespace="team", folder=tmp_path)  # type: ignore[arg-type]
    (sent,) = kfp.started
    container = sent["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert RunOptions.from_environment({each["name"]: each["value"] for each in container["env"]}) == RunOptions(
        True, 9
    )
    assert "KafkaTopic" not in cluster.applied


def test_a_schedule_is_made_once_and_takes_the_place_of_the_one_before(
    kfp: Kfp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kfp.states = [run_as("SUCCEEDED", {"drain": "SUCCEEDED"})]
    kfp.scheduled = {"s-other": {"display_name": "flights-nightly"}}
    monkeypatch.setattr(module, "require_ready", lambda cluster, objects: [])

    def submit(retrain: str) -> list[dict[str, Any]]:
        options = Options(retrain=retrain)
        module.submit(load(USECASE), Recorded(), host=kfp.host, run_id="r", options=options)  # type: ignore[arg-type]
        assert kfp.scheduled.pop("s-other"), "somebody else's stays"
        found = list(kfp.scheduled.values())
        kfp.scheduled["s-other"] = {"display_name": "flights-nightly"}
        return found

    (weekly,) = submit("0 3 * * 1")
    assert weekly["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * 1"
    assert (weekly["mode"], weekly["no_catchup"], weekly["service_account"]) == ("ENABLE", True, "fasttrack-pipeline")
    assert weekly["runtime_config"]["parameters"]["run_id"] == ""
    assert "exec-drain" in json.dumps(weekly["pipeline_spec"])
    assert submit("0 3 * * 1") == [weekly]
    (daily,) = submit("0 4 * * *")
    assert daily["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * *"
    assert submit("") == [daily], "without a schedule, what is scheduled stays"


@pytest.mark.parametrize(
    ("change", "namespace", "reason"),
    [
        ("", "elsewhere", "holds nothing of the use case flights in the namespace elsewhere"),
        ("epochs: 7", "fasttrack", "another state of the use case"),
    ],
)
def test_a_compiled_folder_of_another_state_or_namespace_is_refused(
    kfp: Kfp, tmp_path: Path, change: str, namespace: str, reason: str
) -> None:
    compile_usecase(USECASE, tmp_path)
    usecase = parse(USECASE.read_text().replace("epochs: 6", change or "epochs: 6"))
    cluster = Recorded()
    with pytest.raises(ConfigurationError, match=reason):
        module.submit(usecase, cluster, host=kfp.host, run_id="r", namespace=namespace, folder=tmp_path)  # type: ignore[arg-type]
    (tmp_path / "kfp/training.yaml").unlink()
    with pytest.raises(ConfigurationError, match="pipeline is missing"):
        module.submit(usecase, cluster, host=kfp.host, run_id="r", namespace=namespace, folder=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="no such folder"):
        module.submit(usecase, cluster, host=kfp.host, run_id="r", folder=tmp_path / "absent")  # type: ignore[arg-type]
    assert (cluster.applied, kfp.started) == ([], [])


def test_a_kfp_that_does_not_answer_is_told_with_the_way_to_it(kfp: Kfp) -> None:
    with pytest.raises(UnavailableError, match="port-forward"):
        Api.connect("http://127.0.0.1:9", "", "fasttrack")
    with pytest.raises(ConfigurationError, match="--host"):
        Api.connect("", "", "fasttrack")
    kfp.refuse = 401
    with pytest.raises(AuthenticationError, match="FASTTRACK_KFP_TOKEN"):
        Api.connect(kfp.host, "", "fasttrack")
