"""The part `tune`: the launcher's Experiment, with trials and all of Katib's pods on the node."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.cluster.client import connect
from fasttrack.kubeflow.launchers.launchers import Launchers
from fasttrack.kubeflow.launchers.place import Limits, Place
from fasttrack.kubeflow.trainjob import training_runtime
from fasttrack.settings import Settings
from fasttrack.steps.frame import Step
from fasttrack.tuning.katib import MIN_TRIALS
from fasttrack.tuning.trial import Trials
from fasttrack.usecase import UseCase
from tests.node import katib_pods, rig
from tests.node.bench import SMALL, Bench, usecase_map
from tests.node.rig import NAMESPACE, REGISTRY, VERSION, Object
from tests.unit import learning_table

TRIALS = 6
# An epoch of this many rows takes long enough for a trial to be stopped within its fit.
ROWS = 20_000
PREFIX = "parcels-tune-1-"


@dataclass
class Seen:
    """What came by while a search ran, by name: its last state."""

    pods: dict[str, Object] = field(default_factory=dict)
    trials: dict[str, Object] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)

    def look(self, prefix: str) -> None:
        """Look once."""
        for each in rig.listed("pods"):
            if (name := each["metadata"]["name"]).startswith(prefix) and each["status"].get("containerStatuses"):
                self.pods[name] = each
        self.trials |= {each["metadata"]["name"]: each for each in rig.listed("trials.kubeflow.org")}
        for each in rig.listed("events"):
            if each["reason"] == "FailedCreate" and each["involvedObject"]["name"].startswith(prefix):
                self.refused.add(f"{each['involvedObject']['kind']}: {each['message']}")


@contextmanager
def watching(prefix: str) -> Iterator[Seen]:
    """Look again and again until the block ends."""
    seen, ended = Seen(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.7):
            seen.look(prefix)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join(30)


def tune(bench: Bench) -> None:
    """The launcher's search, as the pipeline's account; each trial's score is that of the same fit on this machine."""
    usecase = learning_table.usecase(tuning={"trials": TRIALS, "epochs": 4, "sample": 1.0, "seed": 11})
    table = learning_table.write(bench.folder / "table", ROWS)
    rig.put(bench.folder / "table", f"{pods.DATA_PATH}/lake/parcels/features")
    image = f"{REGISTRY}/fasttrack/trainer:{VERSION}"
    rig.apply(rig.base("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"))
    rig.apply([usecase_map(usecase), training_runtime(image=image, namespace=NAMESPACE, gpus=False)])
    cluster = connect(kubeconfig=_kubeconfig(pods.PIPELINE_ACCOUNT, bench.folder / "kubeconfig"))
    place = Place(cluster, NAMESPACE, REGISTRY, limits=Limits(tune=500, stuck=60, pending=120))
    settings = Settings(runs=str(bench.folder / "runs"), lake=str(bench.folder / "lake"))
    at = Step("tune-1", usecase, settings, "node", {}, bench.folder)
    features = f"{pods.DATA_PATH}/lake/parcels/features/{table.name}"
    small = patch("fasttrack.kubeflow.experiment.resources", lambda gpus: SMALL)
    with katib_pods.running(), small, watching(PREFIX) as seen:
        found = Launchers(place).search(at, features, 1, bench.folder)
    _tell(found, seen)
    _check_pods(seen)
    _check_scores(usecase, table, found)
    left = [*rig.listed("experiments.kubeflow.org"), *rig.listed("pods"), *rig.listed("configmaps")]
    assert not [name for each in left if (name := each["metadata"]["name"]).startswith(PREFIX)]


def _check_scores(usecase: UseCase, table: Path, found: Object) -> None:
    """What came back by collector, database and Katib is what the same fit gives here."""
    assert len(found["trials"]) == TRIALS and {trial["state"] for trial in found["trials"]} <= {"complete", "stopped"}
    complete = [trial for trial in found["trials"] if trial["state"] == "complete"]
    for trial in complete:
        here = Trials(usecase, str(table)).run(
            trial["architecture"], trial["parameters"], usecase.tuning.seed, lambda step, score: None
        )
        # The file for the collector has six digits.
        assert trial["scores"]["auc"] == pytest.approx(here["auc"], abs=1e-5), trial
    assert found["score"] == max(trial["scores"]["auc"] for trial in complete)


def _check_pods(seen: Seen) -> None:
    """Of each trial one pod, with the collector in it; the search service with two containers."""
    containers = {name: {each["name"] for each in pod["spec"]["containers"]} for name, pod in seen.pods.items()}
    # The median is known when three trials have ended.
    assert sum(bool(each["spec"].get("earlyStoppingRules")) for each in seen.trials.values()) == TRIALS - MIN_TRIALS
    service = [names for names in containers.values() if "suggestion" in names]
    trials = [names for names in containers.values() if "suggestion" not in names]
    assert service and set(map(frozenset, service)) == {frozenset({"suggestion", "early-stopping"})}
    assert len(trials) == TRIALS and all(names == {"node", "metrics-logger-and-collector"} for names in trials)
    # Until the launcher has given the early-stopping container what Katib can't be told.
    assert all(
        told.startswith("ReplicaSet") and "suggestion" not in told.partition("violates")[2] for told in seen.refused
    )


def _tell(found: Object, seen: Seen) -> None:
    for trial in found["trials"]:
        print(f"  trial {trial['number']}: {trial['state']} {trial['architecture']} {trial['scores']}")
    for name, pod in sorted(seen.pods.items()):
        restarts = sum(each["restartCount"] for each in pod["status"]["containerStatuses"])
        print(f"  {name}: {pod['status']['phase']}, {restarts} restarts")
    print(f"  pods of the search service refused before the launcher mended it: {len(seen.refused)}")
    for name, each in sorted(seen.trials.items()):
        print(f"  {name}: {each.get('status', {}).get('observation')}; {each['spec'].get('earlyStoppingRules')}")
    print(f"  best: {found['architecture']} {found['parameters']} {found['score']:.4f}", flush=True)


def _kubeconfig(account: str, path: Path) -> str:
    """A kubeconfig of a service account of the namespace."""
    given = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    token = rig.kubectl("create", "token", account, "--duration=1h").strip()
    name = given["contexts"][0]["context"]["user"]
    path.write_text(yaml.safe_dump(given | {"users": [{"name": name, "user": {"token": token}}]}))
    return str(path)
