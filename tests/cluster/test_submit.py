"""`fasttrack submit` by somebody who has the submitter's Role and no more: it applies all and starts a run, or nothing.

KFP's API is the stand-in of the unit tests, which is held to the models of KFP's own client.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from fasttrack.errors import AuthorizationError
from fasttrack.kubeflow.checks.pulls import NODE
from fasttrack.kubeflow.checks.references import CLUSTER_SERVING_RUNTIME, CLUSTER_TRAINING_RUNTIME, PRIORITY_CLASS
from fasttrack.kubeflow.checks.storage import STORAGE_CLASS
from fasttrack.kubeflow.cluster.client import FIELD_MANAGER, connect
from fasttrack.kubeflow.cluster.kinds import EVENT, NAMESPACE, POD, SECRET, Kind, Object, kind_of
from fasttrack.kubeflow.cluster.transport import Transport
from fasttrack.kubeflow.compile import compile_usecase
from fasttrack.kubeflow.objects import Options
from fasttrack.kubeflow.pods import MANAGER
from tests.cluster.identity import RBAC, as_account
from tests.cluster.plan_rig import FLIGHTS, Room, Said, fasttrack, quota, room, user
from tests.unit.kfp_double import Kfp, kfp_server, run_as

BINDING = Kind(f"{RBAC}/v1", "ClusterRoleBinding")
#: What no Role gives: what runs in other people's namespaces.
OF_OTHERS = {"GET /api/v1/pods"}


@pytest.fixture
def kfp() -> Iterator[Kfp]:
    with kfp_server() as made:
        made.states = [run_as("RUNNING", {"drain": "RUNNING"}), run_as("SUCCEEDED", {"drain": "SUCCEEDED"})]
        yield made


@contextmanager
def submitter(at: Room, folder: Path, *, viewer: bool = True) -> Iterator[Path]:
    """A kubeconfig of an account with the Role `fasttrack-submitter`, and maybe the ClusterRole `fasttrack-viewer`."""
    name = f"submitter-{'viewer' if viewer else 'only'}"
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": at.name}]
    at.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    role = {"apiGroup": RBAC, "kind": "Role", "name": "fasttrack-submitter"}
    bound: Object = {"apiVersion": f"{RBAC}/v1", "metadata": {"name": name}, "subjects": subjects}
    at.apply({**bound, "kind": "RoleBinding", "roleRef": role})
    # Of its own name: two such accounts may be there at a time.
    wide = {**bound, "kind": BINDING.kind, "metadata": {"name": f"{at.name}-{name}"}}
    if viewer:
        at.cluster.apply({**wide, "roleRef": {**role, "kind": "ClusterRole", "name": "fasttrack-viewer"}})
    try:
        yield as_account(at.cluster, at.name, name, folder)
    finally:
        at.cluster.delete(BINDING, f"{at.name}-{name}")


@pytest.fixture(scope="module")
def somebody(furnished: Room, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig of somebody who may submit to the furnished namespace."""
    with submitter(furnished, tmp_path_factory.mktemp("somebody")) as config:
        yield config


@contextmanager
def refused() -> Iterator[set[str]]:
    """The requests that the API server doesn't permit meanwhile."""
    found: set[str] = set()
    send = Transport.send

    def watched(self: Transport, method: str, path: str, **more: Any) -> Any:
        try:
            return send(self, method, path, **more)
        except AuthorizationError:
            found.add(f"{method} {path}")
            raise

    with patch.object(Transport, "send", watched):
        yield found


def stock(at: Room, objects: list[Object]) -> dict[str, str]:
    """All objects in a namespace of the kinds that are compiled, with their versions."""
    return {
        f"{kind.kind} {each['metadata']['name']}": each["metadata"]["resourceVersion"]
        for kind in sorted({kind_of(obj) for obj in objects})
        for each in at.cluster.list(kind, at.name)
    }


def submit(at: str, kfp: Kfp, config: Path | str, *more: str) -> Said:
    where = ["--namespace", at, "--host", kfp.host, "--token", "t"]
    return fasttrack("--json", "submit", str(FLIGHTS), *where, *more, config=config)


# ---------------------------------------------------------------- a good cluster


def test_all_is_applied_and_the_run_is_followed_to_its_end(kfp: Kfp, objects: list[Object], tmp_path: Path) -> None:
    with room() as at:
        at.furnish()
        before = stock(at, objects)
        with submitter(at, tmp_path) as config, refused() as lacking:
            found = submit(at.name, kfp, config, "--registry", "registry.invalid", "--run-id", "run-1")
        assert found.code == 0, found.error
        assert (found.json["state"], found.json["run_id"], found.json["kfp_run"]) == ("SUCCEEDED", "run-1", "kfp-1")
        assert found.json["tasks"] == {"drain": "SUCCEEDED"}
        made = set(stock(at, objects)) - set(before)
        assert made == {f"{obj['kind']} {obj['metadata']['name']}" for obj in objects}
        for obj in objects:
            live = at.cluster.get(kind_of(obj), obj["metadata"]["name"], at.name)
            assert live["metadata"]["labels"]["app.kubernetes.io/managed-by"] == MANAGER
            assert FIELD_MANAGER in {each["manager"] for each in live["metadata"]["managedFields"]}
        (started,) = kfp.started
        assert started["runtime_config"]["parameters"]["run_id"] == "run-1"
        assert lacking == OF_OTHERS
        assert "nodes: could not be checked" in found.error and f"Applied {len(objects)} objects." in found.error


@pytest.mark.parametrize("command", [["plan"], ["diff"], ["doctor", "--cluster", "--usecase"]])
def test_the_other_commands_are_refused_nothing_else(furnished: Room, somebody: Path, command: list[str]) -> None:
    with refused() as lacking:
        found = fasttrack(*command, str(FLIGHTS), "--namespace", furnished.name, config=somebody)
    assert found.code == 0, found.out + found.error
    assert lacking <= OF_OTHERS


def test_what_a_namespaces_role_can_not_give_is_said_not_to_be_checked(
    furnished: Room, kfp: Kfp, tmp_path: Path
) -> None:
    with submitter(furnished, tmp_path, viewer=False) as config, refused() as lacking:
        where = ["--usecase", str(FLIGHTS), "--namespace", furnished.name, "--json"]
        found = fasttrack("doctor", "--cluster", *where, config=config)
    assert found.code == 0, found.out + found.error
    assert lacking == {"GET /api/v1/nodes"}
    said = {each["name"]: each for each in found.json}
    assert said["nodes"]["state"] == said["images"]["state"] == "note"
    assert "could not be checked" in said["nodes"]["detail"] and "could not be checked" in said["images"]["detail"]
    assert said["namespace"]["state"] == said["permissions"]["state"] == "ok"


def test_the_roles_give_what_is_asked_for_now_and_then_and_nothing_dangerous(furnished: Room, somebody: Path) -> None:
    own, name = connect(kubeconfig=str(somebody)), furnished.name
    for verb, kind, where in (
        ("list", EVENT, name),  # of pods that wait
        ("list", STORAGE_CLASS, ""),  # of a claim that isn't bound
        ("get", PRIORITY_CLASS, ""),  # what objects may refer to
        ("get", CLUSTER_TRAINING_RUNTIME, ""),
        ("get", CLUSTER_SERVING_RUNTIME, ""),
    ):
        assert own.allowed(verb, kind, where), f"{verb} {kind} {where}"
    for verb, kind, where in (
        *((verb, SECRET, name) for verb in ("get", "list", "watch", "create", "patch")),
        *((verb, POD, name) for verb in ("create", "patch", "delete")),
        *((verb, NAMESPACE, name) for verb in ("list", "patch", "delete")),
        ("get", NAMESPACE, "default"),
        ("list", POD, ""),
        ("patch", NODE, ""),
        ("create", Kind(f"{RBAC}/v1", "RoleBinding"), name),
    ):
        assert not own.allowed(verb, kind, where), f"{verb} {kind} {where}"
    assert own.find(SECRET, "fasttrack-secrets", name) is not None
    assert not own.allowed("create", POD, name, subresource="exec")


# ---------------------------------------------------------------- bad ones: the cure is told, and nothing is applied


@pytest.fixture
def untouched(furnished: Room, kfp: Kfp, objects: list[Object]) -> Iterator[None]:
    """Nothing is applied, changed or started meanwhile."""
    before = stock(furnished, objects)
    yield
    assert (stock(furnished, objects), kfp.started) == (before, [])


def said(found: Said, code: int, *words: str) -> None:
    text = " ".join((found.out + found.error).split())
    assert found.code == code, text
    assert [word for word in words if word not in text] == [], text


@pytest.mark.usefixtures("untouched")
def test_a_quota_that_is_too_small_is_told(furnished: Room, kfp: Kfp, somebody: Path) -> None:
    with quota(furnished, requests_cpu="1", pods="3"):
        found = submit(furnished.name, kfp, somebody)
    said(found, 2, "quota small: exceeded: requests.cpu", "pods: a run needs", "have the ResourceQuota raised")


@pytest.mark.usefixtures("untouched")
def test_a_missing_crd_is_told_with_what_brings_it(furnished: Room, kfp: Kfp, somebody: Path, tmp_path: Path) -> None:
    compile_usecase(FLIGHTS, tmp_path, namespace=furnished.name, options=Options())
    changed = 0
    for path in tmp_path.rglob("*.yaml"):
        text = path.read_text()
        changed += text.count("kind: KafkaUser\n")
        path.write_text(text.replace("kind: KafkaUser\n", "kind: KafkaQuota\n"))
    assert changed == 2
    found = submit(furnished.name, kfp, somebody, "--compiled", str(tmp_path))
    said(found, 2, "KafkaQuota (kafka.strimzi.io/v1): its CRD is missing", "Install Strimzi", "--leave-out kafka")


@pytest.mark.usefixtures("untouched")
def test_a_lack_of_permission_is_told_with_the_command_that_grants_it(
    furnished: Room, kfp: Kfp, tmp_path: Path
) -> None:
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]
    found = submit(furnished.name, kfp, user(furnished, "only-reads", rules, tmp_path))
    said(found, 12, f"kubectl -n {furnished.name} create role fasttrack-experiments --verb=create,patch")


@pytest.mark.usefixtures("untouched")
def test_a_namespace_that_is_not_there_is_told(kfp: Kfp, somebody: Path) -> None:
    # Who may not read other namespaces can't tell one that is missing from one that is somebody else's.
    said(submit("fasttrack-absent", kfp, ""), 10, "kubectl create namespace fasttrack-absent")
    said(submit("fasttrack-absent", kfp, somebody), 12, "no access to the namespace", "ask an administrator")


@pytest.mark.usefixtures("untouched")
def test_a_name_that_is_too_long_is_told(furnished: Room, kfp: Kfp, somebody: Path) -> None:
    said(submit("x" * 64, kfp, somebody), 2, "is not a namespace", "at most 63 characters")
    said(submit(furnished.name, kfp, somebody, "--run-id", "r" * 81), 2, "can't name a run", "at most 80")


@pytest.mark.usefixtures("untouched")
def test_a_kfp_that_is_away_or_refuses_is_told(furnished: Room, kfp: Kfp, somebody: Path) -> None:
    said(submit(furnished.name, kfp, somebody, "--host", "http://127.0.0.1:9"), 3, "port-forward")
    kfp.refuse = 401
    said(submit(furnished.name, kfp, somebody), 12, "FASTTRACK_KFP_TOKEN")
