"""The API server grants each account what it needs, and no more."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pytest

from fasttrack.kubeflow.checks.permissions import ACCOUNTS
from tests.cluster.conftest import overlay_objects
from tests.cluster.kubectl import Kubectl, Object, documents, until

#: Accounts whose pods have no token.
SILENT = ("gateway", "fasttrack-migrations", "fasttrack-training", "fasttrack-serving")


class Right(NamedTuple):
    """A verb on a resource."""

    verb: str
    group: str
    resource: str
    subresource: str = ""


def plurals(cluster: Kubectl) -> dict[tuple[str, str], str]:
    """Resource names by group and kind."""
    rows = [line.split() for line in cluster("api-resources", "--no-headers").splitlines()]
    return {(row[-3].rpartition("/")[0], row[-1]): row[0] for row in rows}


def allowed(room: Kubectl, account: str, rights: Iterable[Right]) -> dict[Right, bool]:
    """Ask the API server about all of them at once."""
    asked = list(rights)
    user = f"system:serviceaccount:{room.namespace}:{account}"
    reviews: list[Object] = [
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": {**right._asdict(), "namespace": room.namespace}},
        }
        for right in asked
    ]
    given = Kubectl()("create", "--output=jsonpath={.status.allowed}{'\\n'}", "-f", "-", given=documents(*reviews))
    answers = [line == "true" for line in given.splitlines()]
    return dict(zip(asked, answers, strict=True))


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_has_what_doctor_asks_for(cluster: Kubectl, room: Kubectl, account: str) -> None:
    names = plurals(cluster)
    rights = [
        Right(verb, need.kind.group, names[(need.kind.group, need.kind.kind)], need.subresource)
        for need in ACCOUNTS[account]
        for verb in need.verbs
    ]
    assert [right for right, granted in allowed(room, account, rights).items() if not granted] == []


def test_the_pipelines_role_gives_that_and_what_kfp_needs_and_no_more(cluster: Kubectl, room: Kubectl) -> None:
    role = room.get("role", "fasttrack-pipeline")
    assert role is not None
    granted = {
        Right(verb, group, *resource.split("/"))
        for rule in role["rules"]
        for group, resource, verb in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
        if not rule.get("resourceNames")
    }
    names = plurals(cluster)
    needed = {
        Right(verb, need.kind.group, names[(need.kind.group, need.kind.kind)], need.subresource)
        for need in ACCOUNTS["fasttrack-pipeline"]
        for verb in need.verbs
    }
    assert granted - needed == {Right(verb, "argoproj.io", "workflowtaskresults") for verb in ("create", "patch")}


@pytest.mark.parametrize(
    "account",
    [
        "gateway",
        "fasttrack-migrations",
        "fasttrack-training",
        "fasttrack-serving",
        "fasttrack-pipeline",
        "fasttrack-spark",
    ],
)
def test_no_account_reads_secrets_or_widens_its_rights(room: Kubectl, account: str) -> None:
    rights = [
        *(Right(verb, "", "secrets") for verb in ("get", "list", "watch", "create")),
        *(Right(verb, "rbac.authorization.k8s.io", "roles") for verb in ("create", "patch", "bind", "escalate")),
        Right("create", "", "pods", "exec"),
        Right("create", "", "serviceaccounts", "token"),
        Right("impersonate", "", "users"),
    ]
    assert [right for right, granted in allowed(room, account, rights).items() if granted] == []


@pytest.mark.parametrize("account", SILENT)
def test_accounts_without_a_token_have_no_rights_either(room: Kubectl, account: str) -> None:
    rights = [
        Right(verb, "", what) for verb in ("get", "list", "create") for what in ("pods", "configmaps", "services")
    ]
    assert not any(allowed(room, account, rights).values())


def test_a_launcher_makes_no_pods_itself(room: Kubectl) -> None:
    rights = [Right("create", "", "pods"), Right("create", "batch", "jobs"), Right("create", "apps", "deployments")]
    assert not any(allowed(room, "fasttrack-pipeline", rights).values())


@pytest.fixture
def policy(cluster: Kubectl, room: Kubectl) -> Iterator[None]:
    """The policy on Deployments, in force."""
    objects = [each for each in overlay_objects("dev") if each["kind"].startswith("ValidatingAdmissionPolicy")]
    cluster.apply(*objects)
    try:
        yield
    finally:
        for each in objects:
            cluster.run("delete", each["kind"], each["metadata"]["name"])


def test_of_deployments_a_launcher_changes_katibs_only(room: Kubectl, policy: None) -> None:
    suggestion = {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Suggestion",
        "name": "search",
        "uid": str(uuid.uuid4()),
    }
    room.apply(_deployment("other", []), _deployment("suggested", [suggestion | {"blockOwnerDeletion": False}]))
    until(lambda: "Suggestions only" in _changed(room, "other"), "the policy is in force")
    # The garbage collector may have been faster: the owner is made up.
    assert _changed(room, "suggested") == "" or room.get("deployment", "suggested") is None


def _changed(room: Kubectl, name: str) -> str:
    """Why the pipeline's account may not change a Deployment; empty if it may."""
    user = f"system:serviceaccount:{room.namespace}:fasttrack-pipeline"
    done = room.run("annotate", "deployment", name, f"touched={uuid.uuid4().hex}", "--overwrite", f"--as={user}")
    return done.stderr if done.returncode else ""


def _deployment(name: str, owners: list[Object]) -> Object:
    labels = {"app": name}
    security = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    spec = {"containers": [{"name": "it", "image": "it", "securityContext": security}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "ownerReferences": owners},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
