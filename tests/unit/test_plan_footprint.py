"""The footprint: every kind's pods, counted as its operator makes them."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.capacity import NodeRoom, against_limits, against_nodes, against_quota, defaults_of, node_rooms
from fasttrack.kubeflow.compiled import compiled_objects, with_runs
from fasttrack.kubeflow.footprint import footprint, rows
from fasttrack.kubeflow.pod_needs import pod_need
from fasttrack.kubeflow.quantities import bytes_text, cores_text, jvm_bytes, quantity
from fasttrack.kubeflow.workloads import pod_groups
from fasttrack.usecase import load

FLIGHTS = Path(__file__).parents[2] / "examples/flights/usecase.yaml"
GIB = Decimal(2**30)


def container(cpu: str = "", memory: str = "", **limits: str) -> dict[str, Any]:
    requests = {name: value for name, value in (("cpu", cpu), ("memory", memory)) if value}
    return {"name": "main", "image": "registry.example.com/a:1", "resources": {"requests": requests, "limits": limits}}


def made(kind: str, spec: dict[str, Any], name: str = "a") -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": "n"}, "spec": spec}


def deployment(replicas: int, each: dict[str, Any]) -> dict[str, Any]:
    return made("Deployment", {"replicas": replicas, "template": {"spec": {"containers": [each]}}})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("250m", "0.25"),
        ("2", "2"),
        (2, "2"),
        ("1Gi", 2**30),
        ("1.5Gi", 1.5 * 2**30),
        ("1G", 10**9),
        ("1e3", 1000),
        ("1E", 10**18),
        ("100n", "1e-7"),
    ],
)
def test_quantities(text: str | int, value: str | float) -> None:
    assert quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "1 Gi", "ten", "1gi", "0x10", "-", "1Gi2"])
def test_no_quantities(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a quantity"):
        quantity(text)


def test_sizes_of_spark_are_binary() -> None:
    assert jvm_bytes("4g") == 4 * GIB and jvm_bytes("512M") == GIB / 2 and jvm_bytes("1024") == 1024
    with pytest.raises(ConfigurationError, match="is not a size"):
        jvm_bytes("4 gigs")


def test_numbers_for_people() -> None:
    assert [cores_text(Decimal(text)) for text in ("0.25", "2", "19.1")] == ["250m", "2", "19.1"]
    assert [bytes_text(Decimal(number)) for number in (2**30, 1.5 * 2**30, 500, 2**20 + 1)] == [
        "1Gi",
        "1.5Gi",
        "500",
        "1.1Mi",
    ]


def test_init_containers_run_before_and_sidecars_beside() -> None:
    need = pod_need(
        {
            "initContainers": [container("3", "1Gi"), {**container("1", "1Gi"), "restartPolicy": "Always"}],
            "containers": [container("500m", "1Gi"), container("1", "2Gi")],
        }
    )
    assert need.requests == {"cpu": Decimal(3), "memory": 4 * GIB}


def test_a_missing_request_is_the_limit_and_what_is_unset_is_known() -> None:
    bounded: dict[str, Any] = {"resources": {"limits": {"cpu": "2"}}}
    assert pod_need({"containers": [bounded]}).requests == {"cpu": Decimal(2)}
    need = pod_need({"containers": [{"resources": {"requests": {"memory": "1Gi"}}}, bounded]})
    assert need.unset == {"requests.cpu", "limits.cpu", "requests.memory", "limits.memory"}


def test_an_autoscaler_gives_the_bounds() -> None:
    scaler = {"minReplicas": 3, "maxReplicas": 7, "scaleTargetRef": {"kind": "Deployment", "name": "a"}}
    group = pod_groups([deployment(1, container("1", "1Gi")), made("HorizontalPodAutoscaler", scaler, "other")])[0]
    assert (group.least, group.most) == (3, 7)


def spark(**extra: Any) -> dict[str, Any]:
    spec = {
        "type": "Python",
        "driver": {"cores": 1, "memory": "1g"},
        "executor": {"cores": 2, "memory": "4g", "instances": 2},
        **extra,
    }
    return made("SparkApplication", spec)


def test_spark_adds_its_overhead() -> None:
    driver, executors = pod_groups([spark()])
    assert driver.need.requests == {"cpu": Decimal(1), "memory": GIB + Decimal("0.4") * GIB}
    assert executors.need.requests["memory"] == Decimal("1.4") * 4 * GIB
    small = pod_groups([spark(type="Scala", driver={"memory": "512m"})])[0]
    assert small.need.requests["memory"] == GIB / 2 + 384 * Decimal(2**20)


def test_dynamic_allocation_gives_the_bounds_of_executors() -> None:
    given = {"enabled": True, "minExecutors": 1, "initialExecutors": 2, "maxExecutors": 9}
    executors = pod_groups([spark(dynamicAllocation=given)])[1]
    assert (executors.least, executors.most, executors.phase) == (1, 9, "features")


def test_a_scheduled_application_is_none_or_one() -> None:
    scheduled = made("ScheduledSparkApplication", {"template": spark()["spec"]})
    assert [(g.least, g.most, g.phase) for g in pod_groups([scheduled])] == [(0, 1, "schedule"), (0, 2, "schedule")]


def runtime(**resources: Any) -> dict[str, Any]:
    pod = {"template": {"spec": {"containers": [{"name": "node", "resources": resources}]}}}
    jobs = [{"name": "node", "template": {"spec": pod}}]
    return made("TrainingRuntime", {"mlPolicy": {"numNodes": 4}, "template": {"spec": {"replicatedJobs": jobs}}}, "rt")


def test_a_train_job_takes_from_its_runtime_what_it_does_not_say() -> None:
    job = made("TrainJob", {"runtimeRef": {"kind": "TrainingRuntime", "name": "rt"}})
    group = pod_groups([runtime(limits={"nvidia.com/gpu": 2}), job])[0]
    assert (group.most, group.need.requests["nvidia.com/gpu"]) == (4, 2)
    job["spec"]["trainer"] = {"numNodes": 2, "resourcesPerNode": {"requests": {"cpu": "3"}}}
    group = pod_groups([runtime(limits={"nvidia.com/gpu": 2}), job])[0]
    assert (group.most, group.need.requests) == (2, {"cpu": Decimal(3)})


def test_an_experiment_runs_some_trials_at_a_time_beside_its_suggestions() -> None:
    trial = {"kind": "TrainJob", "spec": {"trainer": {"numNodes": 2, "resourcesPerNode": {"requests": {"cpu": "1"}}}}}
    spec = {
        "parallelTrialCount": 3,
        "maxTrialCount": 9,
        "metricsCollectorSpec": {"collector": {"kind": "File"}},
        "trialTemplate": {"trialSpec": trial},
    }
    suggestions, trials = pod_groups([made("Experiment", spec)])
    assert suggestions.most == 1
    assert (trials.least, trials.most, trials.need.requests["cpu"]) == (2, 6, Decimal("1.05"))


def test_an_inference_service_counts_every_part_and_kserves_defaults() -> None:
    spec = {
        "predictor": {"minReplicas": 2, "maxReplicas": 8, "model": {"storageUri": "pvc://data/a"}},
        "transformer": {"containers": [container("1", "1Gi")]},
        "explainer": {"minReplicas": 0, "maxReplicas": 2, "containers": [container("500m", "1Gi")]},
    }
    groups = {g.name.rpartition(": ")[2]: g for g in pod_groups([made("InferenceService", spec)])}
    assert {n: (g.least, g.most) for n, g in groups.items()} == {
        "predictor": (2, 8),
        "transformer": (1, 1),
        "explainer": (0, 2),
    }
    assert groups["predictor"].need.requests == {"cpu": Decimal(1), "memory": 2 * GIB}


def test_phases_of_a_run_follow_each_other_and_serving_stays() -> None:
    job = made("TrainJob", {"trainer": {"numNodes": 2, "resourcesPerNode": {"requests": {"cpu": "2"}}}})
    found = footprint([deployment(1, container("1", "1Gi")), spark(), job])
    assert found.idle.requests["cpu"] == 1
    # Spark asks for 1 + 2 x 2 cores, training for 2 x 2: the larger of the two, beside what stands.
    assert found.run.requests["cpu"] == 1 + 5
    assert found.run.pods == 1 + 3


def test_claims_are_disk() -> None:
    claim = made("PersistentVolumeClaim", {"resources": {"requests": {"storage": "100Gi"}}})
    assert footprint([claim]).disk == {"PersistentVolumeClaim a": 100 * GIB}


def test_the_example_has_a_footprint_with_every_kind() -> None:
    usecase = load(FLIGHTS)
    objects = compiled_objects(usecase, registry="", namespace="n")
    found = footprint(with_runs(objects, usecase, registry="", namespace="n"))
    kinds = {group.name.split(" ", 1)[0] for group in found.groups}
    assert {"SparkApplication", "TrainJob", "Experiment", "InferenceService", "PipelineVersion"} <= kinds
    assert 0 < found.idle.pods < found.run.pods < found.most.pods
    assert found.idle.requests["memory"] < found.run.requests["memory"] < found.most.requests["memory"]
    assert all(len(row) == 7 for row in rows(found))


# ---------------------------------------------------------------- room


def node(name: str, cpu: str = "4", gpus: int = 0, taints: list[dict[str, str]] | None = None) -> dict[str, Any]:
    allocatable = {"cpu": cpu, "memory": "16Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
    return {
        "metadata": {"name": name, "labels": {"disk": "fast"}},
        "spec": {"taints": taints or []},
        "status": {"allocatable": allocatable},
    }


def states(found: Any) -> list[tuple[str, str]]:
    return [(each.name, each.state) for each in found]


def test_pods_that_are_there_leave_less_room_and_ended_ones_do_not() -> None:
    spec = {"nodeName": "a", "containers": [container("3", "1Gi")]}
    running = {"spec": spec, "status": {"phase": "Running"}}
    ended = {"spec": spec, "status": {"phase": "Succeeded"}}
    assert node_rooms([node("a")], [running, ended])[0].free["cpu"] == 1
    assert node_rooms([node("a") | {"spec": {"unschedulable": True}}], []) == []


def test_what_no_node_has_is_told() -> None:
    need = footprint([deployment(1, {"resources": {"limits": {"nvidia.com/gpu": "1"}}})])
    found = list(against_nodes(need, node_rooms([node("a")], [])))
    assert found[0].state == "note" and "no node has room for one pod" in found[0].detail
    assert states(against_nodes(need, node_rooms([node("a", gpus=1)], []))) == [("nodes", "ok")]


def test_a_taint_keeps_out_who_does_not_tolerate_it() -> None:
    taint = {"key": "nvidia.com/gpu", "value": "yes", "effect": "NoSchedule"}
    need = pod_need({"containers": [container("1", "1Gi")]})
    tolerant = pod_need({"containers": [], "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]})
    room = node_rooms([node("a", taints=[taint])], [])[0]
    assert not room.takes(need) and room.takes(tolerant)


def test_pods_that_fit_one_by_one_but_not_together_are_told() -> None:
    rooms = [NodeRoom("a", {"cpu": Decimal(4), "memory": 64 * GIB, "pods": Decimal(10)})]
    found = list(against_nodes(footprint([deployment(3, container("2", "1Gi"))]), rooms))
    assert "1 pods find no room" in found[0].detail


def quota(**hard: str) -> dict[str, Any]:
    names = {name.replace("_", "."): value for name, value in hard.items()}
    return {"metadata": {"name": "q"}, "spec": {"hard": names}, "status": {"used": dict.fromkeys(names, "0")}}


def test_a_quota_that_a_run_exceeds_is_to_be_mended() -> None:
    found = footprint([deployment(3, container("2", "1Gi"))])
    bad = list(against_quota(found, [quota(requests_cpu="5")], defaulted=frozenset()))
    assert [each.state for each in bad] == ["mend"]
    assert "a run needs 6, 5 is left" in bad[0].detail
    assert states(against_quota(found, [quota(requests_cpu="6")], defaulted=frozenset())) == [("quota q", "ok")]


def test_a_quota_that_only_the_most_exceeds_is_a_note() -> None:
    scaler = {"minReplicas": 1, "maxReplicas": 9, "scaleTargetRef": {"kind": "Deployment", "name": "a"}}
    found = footprint([deployment(1, container("1", "1Gi")), made("HorizontalPodAutoscaler", scaler)])
    assert states(against_quota(found, [quota(pods="5")], defaulted=frozenset())) == [("quota q", "note")]


def test_a_quota_on_what_pods_do_not_give_refuses_them_unless_a_default_is_there() -> None:
    found = footprint([deployment(1, container("1", "1Gi"))])
    bad = list(against_quota(found, [quota(limits_cpu="100")], defaulted=frozenset()))
    assert bad[0].state == "mend" and "limits.cpu" in bad[0].detail
    limits = [{"spec": {"limits": [{"type": "Container", "default": {"cpu": "1"}}]}}]
    assert states(against_quota(found, [quota(limits_cpu="100")], defaulted=defaults_of(limits))) == [("quota q", "ok")]


def test_argos_own_containers_need_what_a_quota_counts_and_nobody_gives() -> None:
    found = footprint(compiled_objects(load(FLIGHTS), registry="", namespace="n"))
    hard = {"cpu": "1000", "limits.memory": "10Ti", "pods": "1000"}
    wide = {"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {}}
    told = [
        each for each in against_quota(found, [wide], defaulted=frozenset({"limits.memory"})) if "Argo" in each.detail
    ]
    assert [(each.state, "requests.cpu" in each.detail, "memory" in each.detail) for each in told] == [
        ("note", True, False)
    ]
    every = frozenset({"requests.cpu", "limits.memory"})
    assert states(against_quota(found, [wide], defaulted=every)) == [("quota q", "ok")]
    assert not any("Argo" in each.detail for each in against_quota(footprint([]), [wide], defaulted=frozenset()))


def test_a_quota_counts_objects() -> None:
    name = "count/experiments.kubeflow.org"
    one = {"metadata": {"name": "q"}, "spec": {"hard": {name: "1"}}, "status": {"used": {name: "0"}}}
    assert states(against_quota(footprint([]), [one], defaulted=frozenset(), counts={name: 2})) == [("quota q", "mend")]
    assert states(against_quota(footprint([]), [one], defaulted=frozenset(), counts={name: 1})) == [("quota q", "ok")]


def test_a_limit_range_refuses_a_pod_that_is_too_large() -> None:
    found = footprint([deployment(1, container("3", "1Gi"))])
    ranges = [{"metadata": {"name": "r"}, "spec": {"limits": [{"type": "Pod", "max": {"cpu": "2"}}]}}]
    assert states(against_limits(found, ranges)) == [("limit range r", "mend")]
    ranges[0]["spec"]["limits"][0]["max"]["cpu"] = "3"  # type: ignore[index]
    assert states(against_limits(found, ranges)) == []
