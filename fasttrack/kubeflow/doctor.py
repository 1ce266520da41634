"""``fasttrack doctor --cluster``: looks at a cluster and a namespace, and says what to mend."""

from __future__ import annotations

from collections.abc import Iterator

from fasttrack.errors import UnavailableError
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.checks.finding import Finding, mend
from fasttrack.kubeflow.checks.namespace import check_namespace
from fasttrack.kubeflow.checks.permissions import FOLLOW, check_accounts, check_mine, needs_of
from fasttrack.kubeflow.checks.pulls import check_images
from fasttrack.kubeflow.checks.references import Reference, check_reference, made_by, references
from fasttrack.kubeflow.checks.served import OPERATORS, check_served
from fasttrack.kubeflow.checks.storage import check_storage
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.kinds import CONFIG_MAP, PERSISTENT_VOLUME_CLAIM, SECRET, Object, kind_of
from fasttrack.kubeflow.plan import judge
from fasttrack.kubeflow.preflight import room
from fasttrack.kubeflow.workloads import pod_groups

#: The oldest Kubernetes that the pinned operators take: KServe 0.20 and Trainer 2.3 want this or newer.
OLDEST = (1, 32)

#: What the base, or whoever looks after the namespace, has to put there, whatever the use case.
WANTED = (
    Reference(CONFIG_MAP, pods.SETTINGS, ("FASTTRACK_KAFKA", "FASTTRACK_LAKE", "FASTTRACK_PACKAGES", "FASTTRACK_RUNS")),
    Reference(SECRET, pods.SECRETS, ("FASTTRACK_POSTGRES", "FASTTRACK_REDIS")),
    Reference(SECRET, pods.SIGNING_KEY, ("signing.pem",)),
    Reference(SECRET, pods.VERIFY_KEY, ("verify.pem",)),
)


def examine_cluster(cluster: Cluster, objects: list[Object], namespace: str) -> list[Finding]:
    """Look at everything that a use case needs of a cluster; changes nothing.

    Args:
        cluster: the cluster.
        objects: what would be applied, and what a run would make.
        namespace: their namespace.

    Raises:
        UnavailableError: the API server does not answer.
        AuthenticationError: the cluster doesn't know the account.
    """
    found = [_version(cluster)]
    kinds = {kind_of(each) for each in objects}
    found += check_served(cluster, kinds)
    found += check_namespace(cluster, namespace, kinds)
    if any(not each.ok and each.name == "namespace" for each in found):
        return found
    found += check_mine(cluster, [*needs_of(kinds), *FOLLOW], namespace)
    found += check_accounts(cluster, namespace)
    found += _wanted(cluster, objects, namespace)
    found += check_storage(cluster, namespace, pods.DATA)
    found += room(cluster, objects, namespace)
    found += check_images(cluster, [i for group in pod_groups(objects) for i in group.need.images], namespace)
    found += _webhooks(cluster, objects)
    return found


def _version(cluster: Cluster) -> Finding:
    version = cluster.version()
    numbers = [part for part in version.removeprefix("v").split(".")[:2] if part.isdigit()]
    detail = f"{version} at {cluster.host}"
    if len(numbers) == 2 and (int(numbers[0]), int(numbers[1])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return Finding("cluster", "mend", detail, f"Upgrade it: the operators need Kubernetes {oldest} or newer.")
    return Finding("cluster", "ok", detail)


def _wanted(cluster: Cluster, objects: list[Object], namespace: str) -> Iterator[Finding]:
    """What the namespace always has to hold, then what these objects name beside that."""
    made = made_by(objects)
    told = {(each.kind, each.name) for each in WANTED} | {(PERSISTENT_VOLUME_CLAIM, pods.DATA)}
    others = [
        each
        for each in references(objects)
        if (each.kind, each.name) not in told and (each.kind.kind, each.name) not in made
    ]
    for each in [*WANTED, *others]:
        yield check_reference(cluster, each, namespace)


def _webhooks(cluster: Cluster, objects: list[Object]) -> Iterator[Finding]:
    """Let each operator's webhooks judge an object of theirs, in a dry run."""
    by_group: dict[str, list[Object]] = {}
    for each in objects:
        if cluster.serves(kind_of(each)):
            by_group.setdefault(kind_of(each).group, []).append(each)
    for group, members in sorted(by_group.items()):
        operator = OPERATORS.get(group)
        title = f"dry run {operator.name}" if operator else "dry run Kubernetes"
        try:
            reasons = [change.reason for each in members if (change := judge(cluster, each, objects)).reason]
        except UnavailableError as error:
            yield mend(title, error)
            continue
        bad = [reason for reason in reasons if reason and not reason.ok]
        notes = [reason for reason in reasons if reason and reason.ok]
        yield from bad
        yield from notes
        if not bad:
            yield Finding(title, "ok", f"takes {', '.join(sorted({each['kind'] for each in members}))}")
