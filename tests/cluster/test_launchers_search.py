"""A search that is cancelled, killed or takes too long leaves nothing: Experiment, Suggestion, Trials, their jobs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fasttrack.errors import DeadlineError
from fasttrack.kubeflow.cluster.kinds import EXPERIMENT, POD, TRAIN_JOB
from fasttrack.kubeflow.launchers import Launchers, tune
from fasttrack.usecase import load
from tests.cluster.launcher_rig import Rig, rig
from tests.cluster.stage import Background, until

USECASE = Path(__file__).parents[2] / "examples/flights/usecase.yaml"
TRIALS = 2


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    found = load(USECASE)
    # The suggestion service of the tests' cluster knows no early stopping.
    less = {"early_stopping": "none", "trials": TRIALS, "parallel_trials": TRIALS}
    usecase = found.model_copy(update={"tuning": found.tuning.model_copy(update=less)})
    # Not `restricted`: see test_launchers_jobs.
    with rig(tmp_path_factory.mktemp("search"), usecase, "baseline") as made:
        yield made


def everything_runs(room: Rig) -> None:
    """Wait until all that a search makes is there, down to the trials' pods."""

    def there() -> bool:
        kinds = {word.split()[0] for word in room.left().values()}
        pods = [pod["status"].get("phase") for pod in room.pods("jobset.sigs.k8s.io/replicatedjob-name=node")]
        made = {"Experiment", "Suggestion", "Trial", "TrainJob", "JobSet", "Job", "Deployment", "Pod", "ConfigMap"}
        return made <= kinds and pods.count("Running") >= TRIALS

    until(there, 120, lambda: f"not all is there: {sorted(room.left().values())}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_cancelled_search_takes_everything_with_it(room: Rig, number: signal.Signals) -> None:
    with room.child("tune", f"cancel-{number.name.lower()}") as process:
        everything_runs(room)
        process.send_signal(number)
        assert process.wait(timeout=90) != 0
    assert not room.cluster.list(EXPERIMENT, room.namespace), "the step ends when its Experiment is gone"
    room.wait_clean()


def test_a_search_that_takes_too_long_is_ended(room: Rig) -> None:
    at = room.step("tune-1", "slow")
    call = Background(lambda: tune.search(room.place(tune=25.0), at, "tune-1", "/lake/f", 1))
    until(lambda: room.cluster.list(TRAIN_JOB, room.namespace), 60)
    with pytest.raises(DeadlineError, match="not finished after 25 s"):
        call.join()
    assert "left_behind" not in at.record["cluster"]
    room.wait_clean()


def test_what_a_killed_search_left_goes_with_its_pod(room: Rig) -> None:
    with room.child("tune", "orphan") as process:
        everything_runs(room)
        process.kill()
    room.cluster.delete(POD, "step-orphan", room.namespace, grace=0, foreground=False)
    room.wait_clean()


def test_the_end_of_the_run_sweeps_what_a_killed_search_left(room: Rig) -> None:
    with room.child("tune", "swept") as process:
        everything_runs(room)
        process.kill()
    swept = Launchers(room.place()).sweep("swept", room.usecase.name)
    assert [word.split()[0] for word in swept] == ["Experiment", "ConfigMap"]
    room.wait_clean()
