"""Katib with the settings of manifests/kustomize/platform/katib: its pods pass `restricted`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from fasttrack.kubeflow.experiment import experiment
from fasttrack.kubeflow.names import usecase_object
from fasttrack.usecase import UseCase, canonical_text
from tests.cluster import katib_rig
from tests.cluster.kubectl import Kubectl, Object, until

COLLECTOR = "metrics-logger-and-collector"
NAME = "katib.kubeflow.org/experiment"


@pytest.fixture(scope="module", autouse=True)
def settings(cluster: Kubectl) -> Iterator[None]:
    """Katib has our settings: as installed, or put into the one that ../shared/cluster runs."""
    if katib_rig.in_force() == katib_rig.ours():
        yield
        return
    if (folder := katib_rig.home()) is None:
        pytest.fail(
            "Katib of this cluster has other settings than ours, or is not there. Apply "
            "manifests/kustomize/platform/katib and restart its controller.",
            pytrace=False,
        )
    with katib_rig.settings(folder, katib_rig.ours()):
        yield


@pytest.fixture(scope="module")
def space(room: Kubectl, flights: UseCase) -> Kubectl:
    """A `restricted` namespace with the use case in it."""
    found = room.get("namespace", room.namespace)
    assert found and found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    meta = {"name": usecase_object(flights)}
    data = {"usecase.yaml": canonical_text(flights)}
    room.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})
    return room


def search(space: Kubectl, flights: UseCase, name: str, **tuning: str) -> Object:
    """An Experiment of ours, applied."""
    usecase = flights.model_copy(update={"tuning": flights.tuning.model_copy(update=tuning)})
    made = experiment(usecase, image="fasttrack/trainer:0.1.0", namespace=space.namespace, name=name)
    assert not space.apply(made)
    return made


def refusals(space: Kubectl, name: str) -> list[str]:
    """What admission said of pods of a Deployment or Job."""
    events = space.list("events")
    own = [each for each in events if each["involvedObject"]["name"].startswith(name)]
    return [each["message"] for each in own if each["reason"] == "FailedCreate"]


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_the_search_service_is_admitted(space: Kubectl, flights: UseCase, algorithm: str) -> None:
    made = search(space, flights, f"search-{algorithm}", algorithm=algorithm, early_stopping="none")
    name = f"{made['metadata']['name']}-{algorithm}"
    (pod,) = until(
        lambda: space.list("pods", f"katib.kubeflow.org/deployment={name}"),
        f"a pod of the search service; refused: {refusals(space, name)}",
    )
    assert pod["spec"]["containers"][0]["securityContext"]["runAsUser"] == 65532
    assert not refusals(space, name)


def test_a_search_starts_as_many_trials_as_may_run_at_a_time(space: Kubectl, flights: UseCase) -> None:
    # Katib asks the search service when its pod is ready: on a node of any kind.
    made = search(space, flights, "started", early_stopping="none")
    name, spec = made["metadata"]["name"], made["spec"]

    def begun() -> list[Object]:
        found = space.list("trials.kubeflow.org", f"{NAME}={name}")
        return found if len(found) >= spec["parallelTrialCount"] else []

    trials = until(begun, f"its trials; refused: {refusals(space, name)}", 150)
    assert len(trials) <= spec["maxTrialCount"]
    for trial in trials:
        assert {each["name"] for each in trial["spec"]["parameterAssignments"]} == {
            each["name"] for each in spec["parameters"]
        }
        job = until(lambda named=trial["metadata"]["name"]: space.get("trainjobs", named), "the trial's TrainJob", 60)
        assert job["spec"]["runtimeRef"] == spec["trialTemplate"]["trialSpec"]["spec"]["runtimeRef"]
    space("delete", "experiments.kubeflow.org", name, "--wait=false")


def test_of_the_early_stopping_service_katib_can_not_be_told(space: Kubectl, flights: UseCase) -> None:
    made = search(space, flights, "stopping", early_stopping="medianstop")
    name = f"{made['metadata']['name']}-tpe"
    (told, *_) = until(lambda: refusals(space, name), "the search service's pod is refused")
    # The launcher gives it the rest: when this fails, it needn't any more.
    assert 'container "early-stopping"' in told and "suggestion" not in told.partition("violates")[2]


def test_a_trials_pod_is_admitted_with_its_collector(space: Kubectl, flights: UseCase) -> None:
    made = search(space, flights, "trials", early_stopping="none")
    name = made["metadata"]["name"]
    until(lambda: space.get("suggestions.kubeflow.org", name), "Katib takes it")
    space.apply(trial(made, f"{name}-by-hand"))
    labels = f"katib.kubeflow.org/trial={name}-by-hand"
    told = lambda: refusals(space, f"{name}-by-hand")  # noqa: E731
    until(lambda: space.list("pods", labels) or told(), "the trial's pod, or why it is refused", 90)
    assert not told()
    (pod,) = space.list("pods", labels)
    containers = {each["name"]: each for each in pod["spec"]["containers"]}
    assert set(containers) == {"node", COLLECTOR}
    assert containers[COLLECTOR]["securityContext"] == containers["node"]["securityContext"]
    assert pod["spec"]["shareProcessNamespace"] is True


def trial(made: Object, name: str) -> Object:
    """A trial as Katib makes it of an Experiment: it needs no search service, so no node either."""
    spec, template = made["spec"], made["spec"]["trialTemplate"]
    values = {each["name"]: _some(each["feasibleSpace"]) for each in spec["parameters"]}
    text = yaml.safe_dump(template["trialSpec"])
    for parameter, value in values.items():
        text = text.replace(f"${{trialParameters.{parameter}}}", value)
    run = yaml.safe_load(text)
    run["metadata"] = {"name": name, "namespace": made["metadata"]["namespace"]}
    keys = ("primaryContainerName", "primaryPodLabels", "successCondition", "failureCondition")
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Trial",
        "metadata": {"name": name, "labels": {NAME: made["metadata"]["name"]}},
        "spec": {
            "objective": spec["objective"] | {"metricStrategies": []},
            "parameterAssignments": [{"name": parameter, "value": value} for parameter, value in values.items()],
            "metricsCollector": spec["metricsCollectorSpec"],
            "runSpec": run,
            **{key: template[key] for key in keys},
        },
    }


def _some(feasible: Object) -> str:
    return str(feasible["list"][0] if "list" in feasible else feasible["min"])


def test_the_settings_take_the_place_of_the_releases_own(cluster: Kubectl, tmp_path: Path) -> None:
    shutil.copytree(katib_rig.OURS.parent, tmp_path / "ours")
    (tmp_path / "release").mkdir()
    generator: Object = {"name": "katib-config", "namespace": "kubeflow", "files": [katib_rig.FILE]}
    generator |= {"options": {"disableNameSuffixHash": True}}
    (tmp_path / "release/kustomization.yaml").write_text(yaml.safe_dump({"configMapGenerator": [generator]}))
    (tmp_path / "release" / katib_rig.FILE).write_text("kind: KatibConfig\n")
    path = tmp_path / "ours/kustomization.yaml"
    changed = yaml.safe_load(path.read_text())
    assert len(changed["resources"]) == 1
    path.write_text(yaml.safe_dump(changed | {"resources": ["../release"]}))
    (found,) = yaml.safe_load_all(cluster("kustomize", str(tmp_path / "ours")))
    assert (found["metadata"]["name"], found["metadata"]["namespace"]) == ("katib-config", "kubeflow")
    assert yaml.safe_load(found["data"][katib_rig.FILE]) == katib_rig.ours()
