"""`fasttrack doctor --cluster` and what refuses to apply: every bad cluster is told before anything is half applied."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fasttrack.errors import (
    AuthenticationError,
    AuthorizationError,
    ConfigurationError,
    ConflictError,
    NotFoundError,
    UnavailableError,
)
from fasttrack.kubeflow.checks.finding import Finding
from fasttrack.kubeflow.checks.permissions import ACCOUNTS, check_accounts
from fasttrack.kubeflow.cluster.client import connect
from fasttrack.kubeflow.cluster.kinds import (
    CONFIG_MAP,
    CUSTOM_RESOURCE_DEFINITION,
    NAMESPACE,
    Kind,
    Object,
)
from fasttrack.kubeflow.compiled import compiled_objects
from fasttrack.kubeflow.pods import DATA, SECRETS
from fasttrack.kubeflow.preflight import require_ready
from fasttrack.usecase import load
from tests.cluster.identity import kubeconfig
from tests.cluster.plan_rig import (
    FLIGHTS,
    ROLE,
    Room,
    doctor,
    fasttrack,
    nothing_applied,
    room,
    until,
    user,
)

READ = ["get", "list", "watch"]


# ---------------------------------------------------------------- a good cluster


def test_a_cluster_that_is_ready_is_found_ready(furnished: Room, objects: list[Object]) -> None:
    code, found = doctor(furnished)
    assert [each for each in found.values() if not each["ok"]] == []
    assert code == 0
    assert "registry.invalid/fasttrack/spark" in found["images"]["detail"]
    for name in ("cluster", "namespace", "permissions", f"Secret {SECRETS}", "kind TrainJob", "dry run Katib"):
        assert found[name]["state"] == "ok", found[name]
    # The Roles of manifests/kustomize/base give the launchers' and Spark's account what their code calls.
    assert {name: found[f"account {name}"]["state"] for name in ACCOUNTS} == dict.fromkeys(ACCOUNTS, "ok")
    notes = require_ready(furnished.cluster, objects)
    assert all(each.state == "note" for each in notes) and nothing_applied(furnished)


# ---------------------------------------------------------------- no cluster, no account


def test_no_kubeconfig_is_wrong_configuration(tmp_path: Path) -> None:
    for command in (["plan"], ["diff"], ["doctor", "--cluster"]):
        found = fasttrack(*command, config=tmp_path / "none")
        assert (found.code, found.out) == (2, "")
        assert "KUBECONFIG" in found.error and len(found.error.splitlines()) == 1
    with pytest.raises(ConfigurationError, match="--context"):
        connect("no-such-context")


def test_a_cluster_that_does_not_answer_is_unavailable(tmp_path: Path, objects: list[Object]) -> None:
    dead = kubeconfig(tmp_path, "token", server="https://127.0.0.1:1")
    with pytest.raises(UnavailableError, match="readyz"):
        require_ready(connect(kubeconfig=str(dead), patience=0.0), objects)
    found = fasttrack("doctor", "--cluster", config=dead)
    assert found.code == 3 and "does not answer" in found.error


def test_an_account_that_the_cluster_does_not_know_is_refused(tmp_path: Path, objects: list[Object]) -> None:
    with pytest.raises(AuthenticationError, match="does not know you"):
        require_ready(connect(kubeconfig=str(kubeconfig(tmp_path, "forged")), patience=0.0), objects)


def test_who_may_only_read_gets_what_to_ask_for(furnished: Room, objects: list[Object], tmp_path: Path) -> None:
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": READ}]
    config = user(furnished, "reader", rules, tmp_path)
    with pytest.raises(AuthorizationError) as caught:
        require_ready(connect(kubeconfig=str(config), patience=5.0), objects)
    text = str(caught.value)
    assert "create, patch Experiment" in text
    assert f"kubectl -n {furnished.name} create role fasttrack-experiments --verb=create,patch" in text
    assert nothing_applied(furnished)
    code, found = doctor(furnished, config=config)
    assert code == 1 and not found["permissions"]["ok"]
    # What a reader of one namespace can't see is a note, never a guess.
    assert found["nodes"]["state"] == found["account fasttrack-pipeline"]["state"] == "note"


def test_who_may_nothing_can_not_even_see_the_namespace(furnished: Room, objects: list[Object], tmp_path: Path) -> None:
    config = user(furnished, "nobody", [], tmp_path)
    with pytest.raises(AuthorizationError, match="no access to the namespace"):
        require_ready(connect(kubeconfig=str(config), patience=5.0), objects)


def test_the_role_for_submitters_is_enough(furnished: Room, objects: list[Object], tmp_path: Path) -> None:
    rules = furnished.cluster.get(ROLE, "fasttrack-submitter", furnished.name)["rules"]
    config = user(furnished, "submitter", rules, tmp_path)
    notes = require_ready(connect(kubeconfig=str(config), patience=5.0), objects)
    assert all(each.ok for each in notes)


def test_an_account_without_its_role_is_told(furnished: Room) -> None:
    role = furnished.cluster.get(ROLE, "fasttrack-pipeline", furnished.name)
    furnished.cluster.delete(ROLE, "fasttrack-pipeline", furnished.name)
    try:
        # The API server takes a moment to forget a Role: right by right, as they are asked about.
        whole = "TrainJob: get, list, watch, create, patch, delete"
        until(lambda: whole in _accounts(furnished)["fasttrack-pipeline"].detail)
        assert _accounts(furnished)["fasttrack-spark"].ok
    finally:
        furnished.apply(
            {
                "apiVersion": role["apiVersion"],
                "kind": "Role",
                "rules": role["rules"],
                "metadata": {"name": "fasttrack-pipeline"},
            }
        )
    until(lambda: all(each.ok for each in _accounts(furnished).values()))


def _accounts(at: Room) -> dict[str, Finding]:
    """What doctor says of each service account."""
    return {each.name.removeprefix("account "): each for each in check_accounts(at.cluster, at.name)}


# ---------------------------------------------------------------- kinds


def test_a_kind_that_is_missing_is_told_with_what_brings_it(furnished: Room) -> None:
    absent = {
        "apiVersion": "absent.example.com/v1",
        "kind": "Absent",
        "metadata": {"name": "a", "namespace": furnished.name},
    }
    topic = furnished.config("first")
    with pytest.raises(ConfigurationError, match="its CRD is missing"):
        require_ready(furnished.cluster, [topic, absent])
    assert "first" not in furnished.names(CONFIG_MAP)


@contextmanager
def definition(at: Room, version: str) -> Iterator[str]:
    """A kind of our own that the cluster serves in one version only; its group."""
    group = f"x{uuid.uuid4().hex[:8]}.fasttrack.test"
    schema = {
        "openAPIV3Schema": {
            "type": "object",
            "properties": {"spec": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        }
    }
    names = {"plural": "things", "singular": "thing", "kind": "Thing"}
    spec = {"group": group, "names": names, "scope": "Namespaced"}
    spec["versions"] = [{"name": version, "served": True, "storage": True, "schema": schema}]
    name = f"things.{group}"
    meta = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name}}
    at.cluster.create({**meta, "spec": spec})
    try:
        until(lambda: connect().serves(Kind(f"{group}/{version}", "Thing")))
        yield group
    finally:
        at.cluster.delete(CUSTOM_RESOURCE_DEFINITION, name)


def test_a_kind_of_another_version_is_told_with_the_version(furnished: Room) -> None:
    with definition(furnished, "v1alpha1") as group:
        cluster = connect(patience=5.0)
        thing = {"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "a", "namespace": furnished.name}}
        with pytest.raises(ConfigurationError, match=f"serves Thing as {group}/v1alpha1; FastTrack emits {group}/v1"):
            require_ready(cluster, [furnished.config("first"), thing])
        # The version is there, but an older schema of it that doesn't know a field.
        older = {**thing, "apiVersion": f"{group}/v1alpha1", "spec": {"a": 1, "b": 2}}
        with pytest.raises(ConfigurationError, match=r"spec\.b"):
            require_ready(cluster, [furnished.config("first"), older])
    assert "first" not in furnished.names(CONFIG_MAP)


# ---------------------------------------------------------------- namespaces


def test_a_namespace_that_is_missing_is_told_with_the_command_that_makes_it(furnished: Room) -> None:
    name = f"absent-{uuid.uuid4().hex[:6]}"
    objects = compiled_objects(load(FLIGHTS), registry="", namespace=name)
    with pytest.raises(NotFoundError, match=f"kubectl create namespace {name}"):
        require_ready(furnished.cluster, objects)
    found = fasttrack("plan", str(FLIGHTS), "--namespace", name)
    assert found.code == 10 and f"kubectl create namespace {name}" in " ".join(found.out.split())
    assert fasttrack("diff", str(FLIGHTS), "--namespace", name).code == 10


def test_a_namespace_on_its_way_out_is_told() -> None:
    with room() as leaving:
        leaving.apply(leaving.config("held", finalizers=["fasttrack.test/hold"]))
        try:
            leaving.cluster.delete(NAMESPACE, leaving.name)
            until(lambda: leaving.cluster.get(NAMESPACE, leaving.name)["metadata"].get("deletionTimestamp"))
            with pytest.raises(ConflictError, match="is being deleted"):
                require_ready(leaving.cluster, [leaving.config("a")])
        finally:
            leaving.cluster.request(
                "PATCH",
                leaving.cluster.path(CONFIG_MAP, leaving.name, "held"),
                body={"metadata": {"finalizers": None}},
                content="application/merge-patch+json",
                where="held",
            )


def test_labels_that_our_objects_need_are_told(objects: list[Object]) -> None:
    labels = {
        "pod-security.kubernetes.io/enforce": "privileged",
        "katib.kubeflow.org/metrics-collector-injection": "no",
    }
    with room(**labels) as bare:
        code, found = doctor(bare)
        assert code == 1
        assert "metrics-collector-injection=enabled" in found["katib label"]["fix"]
        assert found["pod security"]["state"] == "note" and "privileged" in found["pod security"]["detail"]
        # Nothing of the base is there either: each thing is named with its cure.
        for name in (
            f"Secret {SECRETS}",
            "ConfigMap fasttrack-settings",
            "Secret fasttrack-signing-key",
            f"claim {DATA}",
        ):
            assert not found[name]["ok"] and found[name]["fix"], found[name]


@pytest.mark.parametrize("namespace", ["My_Team", "x" * 64])
def test_a_name_that_no_cluster_takes_is_refused_without_one(namespace: str, tmp_path: Path) -> None:
    for command in ("plan", "diff"):
        found = fasttrack(command, str(FLIGHTS), "--namespace", namespace, config=tmp_path / "none")
        assert found.code == 2, found.out + found.error
        assert namespace in found.out + found.error
