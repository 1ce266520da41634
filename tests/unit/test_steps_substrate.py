"""Where the steps' work is done is told by where they run, and by nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fasttrack.errors import ConfigurationError, FastTrackError
from fasttrack.kubeflow.launchers.launch import launch_name, with_file
from fasttrack.kubeflow.launchers.place import Limits
from fasttrack.kubeflow.launchers.publish import storage_uri
from fasttrack.settings import Settings
from fasttrack.steps import substrate
from fasttrack.steps.frame import OWNER, Step
from fasttrack.steps.here import Here
from fasttrack.usecase import load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("t")
    monkeypatch.setattr(substrate, "TOKEN", tmp_path / "token")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.delenv(OWNER, raising=False)


def test_a_pod_with_an_account_is_a_cluster(pod: None) -> None:
    assert substrate.on_cluster()


def test_a_pod_without_an_account_is_not(pod: None, tmp_path: Path) -> None:
    (tmp_path / "token").unlink()
    assert not substrate.on_cluster()
    assert isinstance(substrate.substrate(), Here)


def test_a_local_run_inside_of_a_pod_stays_local(pod: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OWNER, "1")
    assert isinstance(substrate.substrate(), Here)


def test_outside_of_pods_it_is_local(pod: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    assert isinstance(substrate.substrate(), Here)


def test_in_a_pod_the_steps_get_the_launchers(pod: None) -> None:
    # No service account lies where the client looks for one: it gets as far as that.
    with pytest.raises(FastTrackError) as caught:
        substrate.substrate()
    assert caught.type is ConfigurationError


def test_both_substrates_have_the_same_face() -> None:
    import inspect

    from fasttrack.kubeflow.launchers import Launchers

    names = [
        name for name, member in vars(substrate.Substrate).items() if inspect.isfunction(member) and name[0] != "_"
    ]
    assert names == ["features", "fit", "search", "serve", "sweep"]
    for name in names:
        faces = {
            tuple(inspect.signature(getattr(side, name)).parameters) for side in (substrate.Substrate, Here, Launchers)
        }
        assert len(faces) == 1, name


@pytest.mark.parametrize("module", ["features", "tune", "train", "publish", "report", "refuse"])
def test_a_step_that_launches_imports_neither_spark_nor_torch(module: str) -> None:
    code = f"import sys, fasttrack.steps.{module}, fasttrack.kubeflow.launchers\n"
    heavy = ("torch", "pyspark", "feast", "optuna", "deltalake", "kserve")
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_a_launched_object_is_named_by_run_step_and_round_and_by_nothing_else(tmp_path: Path) -> None:
    usecase = load(ROOT / "examples/flights/usecase.yaml")

    def at(run_id: str) -> Step:
        return Step("train-1", usecase, Settings(), run_id, {}, tmp_path)

    name = launch_name(at("one"), "train-1", 45)
    assert name == launch_name(at("one"), "train-1", 45)
    assert name.startswith("flights-train-1-")
    assert len({name, launch_name(at("two"), "train-1", 45), launch_name(at("one"), "train-2", 45)}) == 3
    assert len(launch_name(at("x" * 80), "train-1", 24)) <= 24


def test_pods_of_a_run_see_the_runs_own_use_case() -> None:
    pod = {"volumes": [{"configMap": {"name": "u-usecase"}}, {"configMap": {"name": "other"}}]}
    env = {"valueFrom": {"configMapKeyRef": {"name": "u-usecase", "key": "k"}}}
    made = with_file({"pod": pod, "env": [env]}, "u-usecase", "own")
    assert [volume["configMap"]["name"] for volume in made["pod"]["volumes"]] == ["own", "other"]
    assert made["env"][0]["valueFrom"]["configMapKeyRef"]["name"] == "own"
    assert pod["volumes"][0]["configMap"]["name"] == "u-usecase", "what the compiler made stays as it was"


def test_limits_are_durations_of_the_environment() -> None:
    found = Limits.from_environment({"FASTTRACK_LIMIT_PENDING": "12h", "FASTTRACK_LIMIT_ATTEMPTS": "5"})
    assert (found.pending, found.attempts, found.stuck) == (43200.0, 5, Limits().stuck)
    with pytest.raises(ConfigurationError, match="FASTTRACK_LIMIT_TRAIN"):
        Limits.from_environment({"FASTTRACK_LIMIT_TRAIN": "soon"})


def test_a_package_outside_of_the_shared_volume_is_refused() -> None:
    assert storage_uri("/var/lib/fasttrack/packages/f/sha256-1") == "pvc://fasttrack-data/packages/f/sha256-1"
    assert storage_uri("s3://models/f") == "s3://models/f"
    with pytest.raises(ConfigurationError, match="FASTTRACK_PACKAGES"):
        storage_uri("/home/me/packages/f")
