"""`fasttrack plan` and `diff` against a real API server: what they say is what happens, and they store nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fasttrack.kubeflow.cluster.kinds import CONFIG_MAP, EXPERIMENT, TRAIN_JOB, kind_of
from fasttrack.kubeflow.compiled import compiled_objects, run_objects
from fasttrack.kubeflow.plan import Change, changes, judge
from fasttrack.kubeflow.pods import MANAGER, RUN_LABEL, USECASE_LABEL
from fasttrack.usecase import load
from tests.cluster.plan_rig import FLIGHTS, Room, fasttrack, room

OURS = {USECASE_LABEL: "flights", "app.kubernetes.io/managed-by": MANAGER}


@pytest.fixture(scope="module")
def plain() -> Iterator[Room]:
    """An empty namespace; each test uses names of its own."""
    with room() as made:
        yield made


def one(at: Room, obj: dict[str, Any]) -> Change:
    return judge(at.cluster, obj, [])


def test_plan_says_what_happens_and_stores_nothing(furnished: Room) -> None:
    objects = compiled_objects(load(FLIGHTS), registry="registry.invalid", namespace=furnished.name)
    before = furnished.names(CONFIG_MAP)
    found = changes(furnished.cluster, "flights", objects, furnished.name)
    assert [each.action for each in found] == ["create"] * len(objects)
    assert furnished.names(CONFIG_MAP) == before and not furnished.names(EXPERIMENT)

    for each in objects:
        furnished.cluster.apply(each)
    again = changes(furnished.cluster, "flights", objects, furnished.name)
    # Defaults of schemas and of mutating webhooks are no changes.
    assert {each.title: each.action for each in again} == {each.title: "keep" for each in found}
    assert "".join(each.unified() for each in again) == ""

    changed = copy.deepcopy(objects)
    experiment = next(each for each in changed if each["kind"] == "Experiment")
    experiment["spec"]["parallelTrialCount"] += 1
    told = {each.title: each for each in changes(furnished.cluster, "flights", changed, furnished.name)}
    # Katib lets three fields of an Experiment change; this is one of them.
    fields = told[f"Experiment {experiment['metadata']['name']}"].differences()
    new = experiment["spec"]["parallelTrialCount"]
    assert [(each.path, each.old, each.new) for each in fields] == [("spec.parallelTrialCount", new - 1, new)]
    assert sum(each.action != "keep" for each in told.values()) == 1


def test_the_commands_agree_with_the_cluster(furnished: Room) -> None:
    where = [str(FLIGHTS), "--namespace", furnished.name, "--registry", "registry.invalid"]
    for each in compiled_objects(load(FLIGHTS), registry="registry.invalid", namespace=furnished.name):
        furnished.cluster.apply(each)
    kept = fasttrack("plan", *where, "--json", "--exit-code")
    assert kept.code == 0, kept.out + kept.error
    assert {each["action"] for each in kept.json["changes"]} == {"keep"}
    assert kept.json["footprint"]["run"]["pods"] > 0
    assert not [each for each in kept.json["findings"] if not each["ok"]]

    body = {"data": {"usecase.yaml": "name: other\n"}}
    path = furnished.cluster.path(CONFIG_MAP, furnished.name, "flights-usecase")
    content = "application/merge-patch+json"
    query = {"fieldManager": "by-hand"}
    furnished.cluster.request("PATCH", path, query=query, body=body, content=content, where="by hand")
    found = fasttrack("plan", *where, "--exit-code")
    assert found.code == 15, found.out + found.error
    assert "~ ConfigMap flights-usecase will be changed: 1 field" in found.out
    assert "in all, at most" in found.out
    text = fasttrack("diff", *where)
    assert text.code == 0
    assert "\n-    name: other\n" in text.out and "\n+    name: flights\n" in text.out
    assert "by-hand" in text.error
    fields = fasttrack("diff", *where, "--json", "--exit-code")
    assert fields.code == 15
    assert [each["path"] for each in fields.json[0]["differences"]] == ["data.usecase.yaml"]
    assert fields.json[0]["differences"][0]["old"] == "name: other\n"


def test_a_field_that_is_no_longer_compiled_goes(plain: Room) -> None:
    plain.apply(plain.config("field", {"a": "1", "b": "2"}))
    found = one(plain, plain.config("field", {"a": "1"}))
    assert (found.action, [str(each) for each in found.differences()]) == ("change", ["data.b: 2 -> (none)"])


def test_it_goes_too_where_kubectl_applied_it(plain: Room) -> None:
    obj = plain.config("by-kubectl", {"a": "1", "b": "2"})
    path = plain.cluster.path(CONFIG_MAP, plain.name, "by-kubectl")
    query, content = {"fieldManager": "kubectl"}, "application/apply-patch+yaml"
    plain.cluster.request("PATCH", path, query=query, body=obj, content=content, where="kubectl apply")
    assert one(plain, obj).action == "keep"
    found = one(plain, plain.config("by-kubectl", {"a": "1"}))
    assert [str(each) for each in found.differences()] == ["data.b: 2 -> (none)"]


def test_a_field_that_somebody_else_owns_is_told_with_the_owner(plain: Room) -> None:
    plain.apply(plain.config("owned", {"a": "1"}))
    path = plain.cluster.path(CONFIG_MAP, plain.name, "owned")
    query, content = {"fieldManager": "somebody"}, "application/merge-patch+json"
    plain.cluster.request("PATCH", path, query=query, body={"data": {"a": "2"}}, content=content, where="by hand")
    found = one(plain, plain.config("owned", {"a": "3"}))
    assert [str(each) for each in found.differences()] == ["data.a: 2 -> 3"]
    assert found.reason is not None and "somebody" in found.reason.detail and found.reason.fix


def test_what_can_not_be_changed_has_to_be_replaced(plain: Room) -> None:
    plain.apply({**plain.config("fixed", {"a": "1"}), "immutable": True})
    found = one(plain, {**plain.config("fixed", {"a": "2"}), "immutable": True})
    assert found.action == "replace"
    assert [str(each) for each in found.differences()] == ["data.a: 1 -> 2"]
    assert found.reason is not None and f"kubectl -n {plain.name} delete configmap fixed" in str(found.reason.fix)


def test_objects_left_over_are_told_and_those_of_runs_and_operators_are_not(plain: Room) -> None:
    left = plain.apply(plain.config("left", labels=OURS))
    plain.apply(plain.config("of-a-run", labels={**OURS, RUN_LABEL: "run-1"}))
    plain.apply(plain.config("of-another", labels={**OURS, USECASE_LABEL: "trains"}))
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "left", "uid": left["metadata"]["uid"]}
    plain.apply(plain.config("of-an-operator", labels=OURS, ownerReferences=[owner]))
    plain.apply(plain.config("compiled", labels=OURS))
    compiled = plain.config("compiled", labels=OURS)
    found = changes(plain.cluster, "flights", [compiled], plain.name)
    assert {each.title: each.action for each in found} == {"ConfigMap compiled": "keep", "ConfigMap left": "remove"}
    assert found[1].unified().startswith(f"--- cluster/{plain.name}/ConfigMap left\n+++ /dev/null\n")
    beside = changes(plain.cluster, "flights", [compiled], plain.name, beside=[plain.config("left")])
    assert [each.title for each in beside] == ["ConfigMap compiled"]


def test_a_job_is_not_judged_before_the_runtime_that_is_applied_with_it(plain: Room, furnished: Room) -> None:
    usecase = load(FLIGHTS)

    def job(at: Room) -> dict[str, Any]:
        made = run_objects(usecase, registry="registry.invalid", namespace=at.name)
        return next(each for each in made if kind_of(each) == TRAIN_JOB)

    reference = job(plain)["spec"]["runtimeRef"]
    runtime = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": reference["kind"], "spec": {}}
    runtime["metadata"] = {"name": reference["name"], "namespace": plain.name}
    found = judge(plain.cluster, job(plain), [runtime])
    assert found.action == "create" and found.reason is not None and "can't be judged before" in found.reason.detail
    alone = judge(plain.cluster, job(plain), [])
    assert alone.action == "refused" and alone.reason is not None and "webhook" in alone.reason.detail
    renamed = job(furnished)
    renamed["metadata"]["name"] = "other"
    assert one(furnished, renamed).action == "create"


def test_what_a_webhook_refuses_is_refused_in_the_plan(furnished: Room) -> None:
    objects = compiled_objects(load(FLIGHTS), registry="registry.invalid", namespace=furnished.name)
    bad = copy.deepcopy(next(each for each in objects if each["kind"] == "Experiment"))
    bad["metadata"]["name"] = "bad"
    bad["spec"]["algorithm"] = {"algorithmName": "astrology"}
    found = one(furnished, bad)
    assert found.action == "refused" and found.reason is not None
    assert "webhook refused" in found.reason.detail and "astrology" in found.reason.detail


def test_the_footprint_needs_no_cluster(tmp_path: Path) -> None:
    found = fasttrack("plan", str(FLIGHTS), "--offline", "--json", config=tmp_path / "none")
    assert found.code == 0, found.error
    assert found.json["changes"] == [] and found.json["footprint"]["most"]["memory"] > 0
