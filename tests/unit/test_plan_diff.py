"""Differences of objects, names and images that no cluster takes, and a plan in words."""

from __future__ import annotations

from typing import Any

import pytest

from fasttrack.cli.cluster import sentences
from fasttrack.errors import AuthorizationError, ConfigurationError, NotFoundError
from fasttrack.kubeflow.checks.finding import Finding, readable
from fasttrack.kubeflow.checks.pulls import bad_reference, full_name
from fasttrack.kubeflow.checks.references import references
from fasttrack.kubeflow.cluster.kinds import kind_of
from fasttrack.kubeflow.diff import Difference, differences, unified
from fasttrack.kubeflow.plan import Change, manager_of
from fasttrack.kubeflow.preflight import offline, raise_for


def config(data: dict[str, str] | None = None, **meta: Any) -> dict[str, Any]:
    head = {"name": "a", "namespace": "n", **meta}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": head, "data": data or {}}


def test_what_the_server_writes_is_no_difference() -> None:
    live = config({"k": "v"}, uid="1", resourceVersion="9", generation=2, managedFields=[{}], creationTimestamp="now")
    assert differences({**live, "status": {"phase": "x"}}, config({"k": "v"})) == []
    assert unified(live, config({"k": "v"}), "a") == ""


def test_fields_that_change_come_and_go() -> None:
    found = differences(config({"a": "1", "b": "2"}), config({"a": "3", "c": "4"}))
    assert found == [Difference("data.a", "1", "3"), Difference("data.b", "2", None), Difference("data.c", None, "4")]
    assert [str(each) for each in found] == ["data.a: 1 -> 3", "data.b: 2 -> (none)", "data.c: (none) -> 4"]


def pod(*containers: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"containers": list(containers)}}


def test_items_with_names_are_told_apart_by_them() -> None:
    old = pod({"name": "main", "image": "a:1"})
    new = pod({"name": "sidecar", "image": "s"}, {"name": "main", "image": "a:2"})
    paths = [each.path for each in differences(old, new)]
    assert paths == ["spec.containers[main].image", "spec.containers[sidecar]"]


def test_items_without_names_or_with_the_same_go_by_position() -> None:
    assert [e.path for e in differences({"spec": [1, 2]}, {"spec": [1, 3, 4]})] == ["spec[1]", "spec[2]"]
    twice = pod({"name": "x", "v": 1}, {"name": "x", "v": 2})
    assert [e.path for e in differences(twice, pod({"name": "x", "v": 1}, {"name": "x", "v": 3}))] == [
        "spec.containers[1].v"
    ]


def test_values_of_secrets_are_never_shown() -> None:
    def secret(value: str) -> dict[str, Any]:
        return {"kind": "Secret", "metadata": {"name": "s"}, "data": {"password": value}}

    found = differences(secret("b2xk"), secret("bmV3"))
    assert len(found) == 1 and found[0].path == "data.password"
    text = str(found[0]) + unified(secret("b2xk"), secret("bmV3"), "s")
    assert "b2xk" not in text and "bmV3" not in text


def test_a_text_of_several_lines_differs_by_line_in_the_unified_form() -> None:
    text = unified(config({"k": "one\ntwo\n"}), config({"k": "one\nthree\n"}), "n/a")
    assert "--- cluster/n/a\n+++ compiled/n/a\n" in text
    assert "-    two\n+    three\n" in text
    assert str(differences(config({"k": "1\n2"}), config({"k": "1\n3"}))[0]) == (
        "data.k: (text of 2 lines) -> (text of 2 lines)"
    )


def test_a_new_object_and_one_that_goes_are_whole_in_the_unified_form() -> None:
    assert unified(None, config(), "a").startswith("--- /dev/null\n+++ compiled/a\n")
    assert unified(config(), None, "a").startswith("--- cluster/a\n+++ /dev/null\n")


# ---------------------------------------------------------------- names and images


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("InferenceService", "x" * 64),
        ("InferenceService", "1st"),
        ("InferenceService", "a.b"),
        ("TrainJob", "Flights"),
        ("ConfigMap", "under_score"),
        ("ConfigMap", "a" * 254),
        ("ConfigMap", ""),
        ("ConfigMap", "flüge"),
        ("ConfigMap", "a\n"),
    ],
)
def test_a_name_that_no_cluster_takes_is_refused(kind: str, name: str) -> None:
    obj = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "n"}, "spec": {}}
    found = list(offline([obj]))
    assert [each.state for each in found] == ["mend"]
    assert "can't be the name of a" in found[0].detail and found[0].fix


def test_a_good_name_is_taken() -> None:
    assert list(offline([config(labels={"a": "b"})])) == []


@pytest.mark.parametrize("namespace", ["My_Team", "x" * 64, "-a"])
def test_a_namespace_that_can_not_be_is_refused(namespace: str) -> None:
    found = list(offline([config() | {"metadata": {"name": "a", "namespace": namespace}}]))
    assert "can't be the name of a namespace" in found[0].detail and "--namespace" in (found[0].fix or "")


def test_a_label_value_that_can_not_be_is_refused() -> None:
    assert "label team" in next(iter(offline([config(labels={"team": "a b"})]))).detail


@pytest.mark.parametrize(
    "image",
    ["fasttrack/train:0.1.0", "registry.example.com:5000/a/b:1", "a@sha256:" + "0" * 64, "localhost/x", "ubuntu"],
)
def test_images_that_can_be(image: str) -> None:
    assert bad_reference(image) is None


@pytest.mark.parametrize(
    "image",
    [
        "https://registry.example.com/a:1",
        "Registry/Team/a",
        "a:b:c",
        "a b",
        "a/",
        "/a",
        "a@sha256:12",
        "",
        "x" * 256,
        "a\n",
    ],
)
def test_images_that_can_not_be(image: str) -> None:
    found = bad_reference(image)
    assert found is not None and "--registry" in (found.fix or "")


def test_images_without_a_host_are_docker_hubs() -> None:
    names = [full_name(n) for n in ("ubuntu", "fasttrack/train", "localhost/a", "r.example.com/a", "r:5000/a")]
    assert names == [
        "docker.io/library/ubuntu",
        "docker.io/fasttrack/train",
        "localhost/a",
        "r.example.com/a",
        "r:5000/a",
    ]


# ---------------------------------------------------------------- what objects name


def test_every_kind_of_reference_is_found_and_optional_ones_are_not() -> None:
    container = {
        "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "l"}}},
            {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k", "optional": True}}},
        ],
        "envFrom": [{"configMapRef": {"name": "c1"}}],
    }
    volumes = [
        {"secret": {"secretName": "s2", "items": [{"key": "pem"}]}},
        {"configMap": {"name": "c2"}},
        {"persistentVolumeClaim": {"claimName": "p1"}},
        {"secret": {"secretName": "gone", "optional": True}},
    ]
    spec = {"serviceAccountName": "sa", "containers": [container], "volumes": volumes}
    objects: list[dict[str, Any]] = [
        {"kind": "Pod", "metadata": {"name": "a"}, "spec": spec},
        {
            "kind": "TrainJob",
            "metadata": {"name": "t"},
            "spec": {"runtimeRef": {"kind": "TrainingRuntime", "name": "r"}},
        },
        {
            "kind": "I",
            "metadata": {"name": "i"},
            "spec": {"model": {"modelFormat": {}, "runtime": "sr", "storageUri": "pvc://p2/x"}},
        },
        {
            "kind": "PipelineVersion",
            "metadata": {"name": "v"},
            "spec": {
                "platformSpec": {
                    "pvcMount": [{"constant": "p3"}],
                    "secretAsEnv": [{"secretName": "gone", "optional": True}],
                }
            },
        },
    ]
    found = {(each.kind.kind, each.name): each for each in references(objects)}
    assert set(found) == {
        ("Secret", "s1"),
        ("Secret", "s2"),
        ("ConfigMap", "c1"),
        ("ConfigMap", "c2"),
        ("ServiceAccount", "sa"),
        ("PersistentVolumeClaim", "p1"),
        ("PersistentVolumeClaim", "p2"),
        ("PersistentVolumeClaim", "p3"),
        ("TrainingRuntime", "r"),
        ("ServingRuntime", "sr"),
    }
    assert found["Secret", "s1"].keys == ("k", "l") and found["Secret", "s2"].keys == ("pem",)


# ---------------------------------------------------------------- errors and words


def test_one_error_names_all_that_has_to_be_mended_with_its_cure() -> None:
    bad = [
        Finding("namespace", "mend", "there is none", "make one", NotFoundError),
        Finding("permissions", "mend", "not permitted", "ask", AuthorizationError),
        Finding("nodes", "note", "few", "more"),
    ]
    with pytest.raises(ConfigurationError) as caught:
        raise_for(bad)
    text = str(caught.value)
    assert (
        "2 things" in text
        and "there is none. make one." in text
        and "not permitted. ask." in text
        and "few" not in text
    )


def test_errors_of_one_class_keep_it() -> None:
    with pytest.raises(NotFoundError) as caught:
        raise_for([Finding("namespace", "mend", "there is none", "make one", NotFoundError)])
    assert caught.value.fix == "make one"
    raise_for([Finding("nodes", "note", "few", "more")])


def test_what_may_not_be_seen_is_a_note() -> None:
    def look() -> list[Finding]:
        raise AuthorizationError("not permitted: nodes", fix="ask")

    found = readable("nodes", look, why="whether there is room")
    detail = "could not be checked: whether there is room (not permitted: nodes)"
    assert found == [Finding("nodes", "note", detail, "ask")]


def test_who_applied_it_applies_it_again() -> None:
    def live(*entries: tuple[str, str]) -> dict[str, Any]:
        return config(managedFields=[{"manager": m, "operation": o} for m, o in entries])

    assert manager_of(None) == manager_of(live(("kubectl-edit", "Update"))) == "fasttrack"
    assert manager_of(live(("kubectl", "Apply"), ("fasttrack", "Apply"))) == "fasttrack"
    assert manager_of(live(("kubectl-edit", "Update"), ("kubectl", "Apply"))) == "kubectl"


def test_a_plan_in_words() -> None:
    def change(action: Any, live: Any, wanted: Any, reason: Finding | None = None) -> Change:
        return Change(action, kind_of(config()), "a", "n", live, wanted, reason)

    lines = sentences(
        [
            change("create", None, config()),
            change("change", config({"k": "1"}), config({"k": "2"})),
            change("remove", config(), None, Finding("a", "note", "no longer compiled", "kubectl delete it")),
            change("keep", config(), config()),
            change("refused", None, config(), Finding("a", "mend", "webhook says no")),
        ]
    )
    assert lines == [
        "  + ConfigMap a will be created",
        "  ~ ConfigMap a will be changed: 1 field",
        "      data.k: 1 -> 2",
        "  - ConfigMap a is no longer compiled; it stays until you delete it: kubectl delete it",
        "  ! ConfigMap a is refused: webhook says no",
        "Plan: 1 to create, 1 to change, 0 to replace, 1 no longer compiled, 1 as they are, 1 refused.",
    ]
