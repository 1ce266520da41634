"""The training pipeline on real parts: it publishes, refuses, fails and is interrupted, and always reports."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from fasttrack.errors import GateError, StepError, UnavailableError
from fasttrack.ingest.replay import replay
from fasttrack.kubeflow.local_run import run_local
from fasttrack.local.platform import Platform
from fasttrack.registry.store import Registry
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, load

ROOT = Path(__file__).parents[2]
SAMPLE = 0.02
ONCE = {"drain", "validate", "features", "tune-1", "train-1", "evaluate-1", "gate-1", "register", "publish"}


def written(folder: Path, name: str, **gate: Any) -> Path:
    """The flights use case as small as it goes: few features, one trial, one epoch, one process; and another gate."""
    document = yaml.safe_load((ROOT / "examples/flights/usecase.yaml").read_text())
    document["name"] = name
    document["models"] = [{"architecture": "mlp", "search": {"hidden": {"type": "choice", "choices": [16, 32]}}}]
    document["tuning"] |= {"trials": 1, "epochs": 1, "sample": 0.5}
    document["training"] |= {"epochs": 1, "workers": 1}
    document["gate"] = {"rounds": 2, "coverage": 0.9, "thresholds": [{"metric": "auc", "at_least": 0.3}]} | gate
    features = ("carrier", "origin", "distance", "hour", "route_arrival_delay", "recent_flights")
    document["features"] = {feature: document["features"][feature] for feature in features}
    document["features"]["recent_flights"]["length"] = 2
    # Of so few flights most have no others near them.
    document["quality"] = {"max_missing": 1.0, "max_label_missing": 0.5, "max_dead_letters": 0.05}
    document["replay"]["source"] = str(ROOT / "examples/flights/events.py:events")
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def environment(platform: Platform) -> Iterator[Settings]:
    before = dict(os.environ)
    os.environ.update(platform.environment())
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), before.get("PYTHONPATH")]))
    yield platform.settings()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def accepted(environment: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UseCase]:
    path = written(tmp_path_factory.mktemp("accepted"), "small")
    usecase = load(path)
    replay(usecase, environment, sample=SAMPLE)
    return path, usecase


def records(settings: Settings, usecase: UseCase, run_id: str) -> dict[str, Any]:
    folder = Path(settings.runs) / usecase.name / run_id
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_an_accepted_model_is_registered_and_served_and_a_second_run_changes_nothing(
    accepted: tuple[Path, UseCase], environment: Settings
) -> None:
    path, usecase = accepted
    first = run_local(usecase, path.read_text(), environment, run_id="first")
    assert set(first.report["steps"]) == ONCE
    assert first.report["status"] == "succeeded"
    registry = Registry(environment.postgres)
    champion = registry.get(usecase.name, "champion")
    deployment = registry.deployment(usecase.name)
    assert deployment is not None and deployment.digest == champion.digest
    lineage = registry.lineage(usecase.name, champion.version)
    assert lineage.lake_versions == first.report["steps"]["drain"]["lake_versions"]
    assert lineage.kafka_offsets

    second = run_local(usecase, path.read_text(), environment, run_id="second")
    assert set(second.report["steps"]) == ONCE
    for name in ("tune-1", "train-1", "evaluate-1", "register", "publish"):
        assert second.report["steps"][name]["reused"], name
    assert second.report["steps"]["features"]["table"]["reused"]
    assert registry.get(usecase.name, "champion") == champion
    registry.close()


def test_a_refusal_leads_to_another_round_of_tuning_and_then_to_a_clear_failure(
    accepted: tuple[Path, UseCase], environment: Settings, tmp_path: Path
) -> None:
    path = written(tmp_path, "small", thresholds=[{"metric": "auc", "at_least": 0.9999}])
    usecase = load(path)
    registry = Registry(environment.postgres)
    registry.migrate()
    before = registry.list(usecase.name)
    with pytest.raises(GateError, match=r"auc .* must be >= 0\.9999") as caught:
        run_local(usecase, path.read_text(), environment, run_id="refused")
    assert "round 2" in str(caught.value)
    found = records(environment, usecase, "refused")
    assert found["report"]["status"] == "refused"
    assert [found[f"gate-{number}"]["decision"] for number in (1, 2)] == ["refused", "refused"]
    assert found["tune-2"]["status"] == "succeeded"
    assert "register" not in found and "publish" not in found
    assert registry.list(usecase.name) == before
    registry.close()


def test_a_broker_that_does_not_answer_fails_the_first_step_and_is_reported(
    accepted: tuple[Path, UseCase], environment: Settings
) -> None:
    path, usecase = accepted
    nowhere = dataclasses.replace(environment, kafka="127.0.0.1:1")
    with pytest.raises(StepError, match="step drain") as caught:
        run_local(usecase, path.read_text(), nowhere, run_id="no-broker")
    assert isinstance(caught.value.__cause__, UnavailableError)
    assert caught.value.exit_code == UnavailableError.exit_code
    found = records(environment, usecase, "no-broker")
    assert found["report"]["status"] == "failed"
    assert set(found) == {"drain", "report"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_process_and_a_report(
    number: signal.Signals, accepted: tuple[Path, UseCase], environment: Settings
) -> None:
    path, usecase = accepted
    run_id = f"interrupted-{number.name.lower()}"
    code = (
        "import sys\nfrom pathlib import Path\nfrom fasttrack.kubeflow.local_run import run_local\n"
        "from fasttrack.settings import Settings\nfrom fasttrack.usecase import load\npath = Path(sys.argv[1])\n"
        "run_local(load(path), path.read_text(), Settings.from_environment(), run_id=sys.argv[2])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), run_id], stderr=subprocess.DEVNULL, start_new_session=True
    )
    owner = psutil.Process(process.pid)
    family: dict[int, psutil.Process] = {}
    deadline = time.monotonic() + 120
    while not any("executor_main" in " ".join(cmdline(child)) for child in family.values()):
        assert process.poll() is None and time.monotonic() < deadline, "no step was started"
        family |= {child.pid: child for child in owner.children(recursive=True)}
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) != 0
    _, alive = psutil.wait_procs(list(family.values()), timeout=30)
    assert not alive
    found = records(environment, usecase, run_id)["report"]
    assert (found["status"], found["state"]) == ("failed", "CANCELED")


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
