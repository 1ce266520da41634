"""Looks before anything is applied, so that nothing is half applied: one error names all that has to be mended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from fasttrack.errors import AuthorizationError, ConfigurationError, FastTrackError
from fasttrack.kubeflow.capacity import against_limits, against_nodes, against_quota, defaults_of, node_rooms
from fasttrack.kubeflow.checks.finding import Finding, readable
from fasttrack.kubeflow.checks.namespace import check_namespace
from fasttrack.kubeflow.checks.permissions import check_mine, needs_of
from fasttrack.kubeflow.checks.pulls import NODE, bad_reference, check_images
from fasttrack.kubeflow.checks.references import CLUSTER_TRAINING_RUNTIME, SERVING_RUNTIME, check_references, references
from fasttrack.kubeflow.checks.served import check_served
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.kinds import POD, TRAINING_RUNTIME, Kind, Object, kind_of
from fasttrack.kubeflow.footprint import footprint
from fasttrack.kubeflow.names import LABEL, is_dns_1035, is_dns_1123_subdomain, is_label_value
from fasttrack.kubeflow.plan import judge
from fasttrack.kubeflow.workloads import pod_groups

RESOURCE_QUOTA = Kind("v1", "ResourceQuota")
LIMIT_RANGE = Kind("v1", "LimitRange")

_RUNTIMES = (TRAINING_RUNTIME, CLUSTER_TRAINING_RUNTIME, SERVING_RUNTIME)

# Services, and what operators make Services of, take DNS-1035 labels; anything else takes a subdomain.
_LABELS = {"Service", "InferenceService", "InferenceGraph", "Experiment", "TrainJob", "SparkApplication"}
_LABELS |= {"ScheduledSparkApplication", "Namespace"}


def require_ready(cluster: Cluster, objects: Iterable[Object]) -> list[Finding]:
    """Refuse to apply `objects` where that would fail, wholly or in the middle.

    Args:
        cluster: the cluster.
        objects: all that is going to be applied, of one namespace.

    Returns:
        What somebody should know although nothing stops: images that no node has yet, pods that will wait.

    Raises:
        UnavailableError: the API server does not answer.
        AuthenticationError: the cluster doesn't know the account.
        ConfigurationError, NotFoundError, AuthorizationError, ConflictError: naming everything that has to be mended,
            each with its cure; of the one class that all of them have, else a ConfigurationError.
    """
    found = findings(cluster, objects)
    raise_for(found)
    return [each for each in found if each.state == "note"]


def raise_for(found: Iterable[Finding]) -> None:
    """Raise one error that names every finding that has to be mended; as `require_ready`."""
    bad = [each for each in found if not each.ok]
    if not bad:
        return
    error = error_of(bad)
    if len(bad) == 1:
        raise error(f"{bad[0].detail.rstrip('.')}.", where=bad[0].name, fix=bad[0].fix)
    words = " ".join(
        f"({number}) {each.name}: {each.detail.rstrip('.')}. {_sentence(each.fix)}".strip()
        for number, each in enumerate(bad, start=1)
    )
    raise error(f"{len(bad)} things have to be mended first: {words}")


def error_of(bad: Iterable[Finding]) -> type[FastTrackError]:
    """The one class that all of them have, else a ConfigurationError."""
    classes = {each.error or ConfigurationError for each in bad}
    return classes.pop() if len(classes) == 1 else ConfigurationError


def _sentence(fix: str | None) -> str:
    return "" if not fix else fix if fix.endswith(".") else f"{fix}."


def findings(cluster: Cluster, objects: Iterable[Object], *, judged: bool = True) -> list[Finding]:
    """Everything that `require_ready` looks at, good and bad; later questions are left out where earlier ones fail.

    Args:
        cluster: the cluster.
        objects: what is going to be applied.
        judged: also let the API server and its webhooks judge each object (a dry run).

    Raises:
        UnavailableError: the API server does not answer.
        AuthenticationError: the cluster doesn't know the account.
    """
    known = list(objects)
    found = list(offline(known))
    if any(not each.ok for each in found):
        return found
    found += standing(cluster, known)
    if any(not each.ok and each.name == "namespace" for each in found):
        return found
    namespaces = sorted({each["metadata"].get("namespace", "") for each in known} - {""})
    for namespace in namespaces:
        here = [each for each in known if each["metadata"].get("namespace") == namespace]
        found += in_namespace(cluster, here, namespace)
    if judged and all(each.ok for each in found):
        found += judgements(cluster, known)
    return found


def standing(cluster: Cluster, objects: Iterable[Object]) -> list[Finding]:
    """Whether anything can be asked about the objects at all: their kinds and namespaces; raises as `findings`."""
    # Asked first, and alone: without an answer every other question would wait in vain.
    cluster.version()
    known = list(objects)
    kinds = {kind_of(each) for each in known}
    found = list(check_served(cluster, kinds))
    for namespace in sorted({each["metadata"].get("namespace", "") for each in known} - {""}):
        here = {kind_of(each) for each in known if each["metadata"].get("namespace") == namespace}
        found += check_namespace(cluster, namespace, here)
    return found


def in_namespace(cluster: Cluster, objects: list[Object], namespace: str) -> Iterator[Finding]:
    """Permissions, names that objects take for granted, room and images."""
    yield from check_mine(cluster, needs_of(kind_of(each) for each in objects), namespace)
    yield from check_references(cluster, objects, namespace)
    yield from room(cluster, objects, namespace)
    images = [image for group in pod_groups(objects) for image in group.need.images]
    yield from check_images(cluster, images, namespace)


def offline(objects: Iterable[Object]) -> Iterator[Finding]:
    """What can be told without a cluster: names, labels and images that no cluster would take."""
    known = list(objects)
    for each in known:
        yield from _names(each)
    for image in sorted({image for group in pod_groups(known) for image in group.need.images}):
        if found := bad_reference(image):
            yield found


def _names(obj: Object) -> Iterator[Finding]:
    meta = obj["metadata"]
    name, namespace = meta.get("name", ""), meta.get("namespace", "")
    title = f"{obj['kind']} {name}"
    as_label = obj["kind"] in _LABELS
    if not (is_dns_1035(name) if as_label else is_dns_1123_subdomain(name)):
        length = LABEL if as_label else 253
        rule = f"at most {length} lower-case letters, digits and hyphens" + (", a letter first" if as_label else "")
        detail = f"{name!r} ({len(name)} characters) can't be the name of a {obj['kind']}"
        yield Finding(title, "mend", detail, f"Use {rule}.", ConfigurationError)
    if namespace and not is_dns_1035(namespace):
        detail = f"{namespace!r} can't be the name of a namespace"
        fix = f"Use --namespace with at most {LABEL} lower-case letters, digits and hyphens."
        yield Finding(title, "mend", detail, fix, ConfigurationError)
    for key, value in (meta.get("labels") or {}).items():
        if not is_label_value(str(value)):
            detail = f"{value!r} can't be the value of the label {key}"
            fix = f"Use at most {LABEL} letters, digits, and ._- between them."
            yield Finding(title, "mend", detail, fix, ConfigurationError)


def room(cluster: Cluster, objects: list[Object], namespace: str) -> Iterator[Finding]:
    """Whether nodes, quotas and limit ranges have room for the objects that aren't on the cluster yet."""
    new = [each for each in objects if cluster.serves(kind_of(each)) and not _there(cluster, each)]
    found = footprint([*new, *_runtimes(cluster, objects, namespace)])
    counts = Counter(name for each in new for name in _counted(cluster, kind_of(each)))
    defaults: list[frozenset[str]] = []

    def ranges() -> Iterator[Finding]:
        given = cluster.list(LIMIT_RANGE, namespace)
        defaults.append(defaults_of(given))
        yield from against_limits(found, given)

    def quotas() -> Iterator[Finding]:
        known = defaults[0] if defaults else None
        yield from against_quota(found, cluster.list(RESOURCE_QUOTA, namespace), defaulted=known, counts=counts)

    def nodes() -> Iterator[Finding]:
        yield from against_nodes(found, node_rooms(cluster.list(NODE), cluster.list(POD)))

    yield from readable("limit ranges", ranges, why="what the namespace gives pods that say nothing")
    yield from readable("quota", quotas, why="how much the namespace may use")
    yield from readable("nodes", nodes, why="whether the nodes have room")


def _runtimes(cluster: Cluster, objects: list[Object], namespace: str) -> list[Object]:
    """The runtimes that objects refer to, of these objects or of the cluster."""
    made = [each for each in objects if each["kind"].endswith("Runtime")]
    names = {(each["kind"], each["metadata"]["name"]) for each in made}
    for each in references(objects):
        if each.kind in _RUNTIMES and (each.kind.kind, each.name) not in names and cluster.serves(each.kind):
            try:
                found = cluster.find(each.kind, each.name, namespace)
            except AuthorizationError:
                continue
            made += [found] if found else []
    return made


def _counted(cluster: Cluster, kind: Kind) -> list[str]:
    """What quotas call a kind: ``count/jobs.batch``; some of the core have a short name too."""
    plural = cluster.resource(kind).plural
    return [f"count/{plural}.{kind.group}"] if kind.group else [f"count/{plural}", plural]


def _there(cluster: Cluster, obj: Object) -> bool:
    meta = obj["metadata"]
    try:
        return cluster.find(kind_of(obj), meta["name"], meta.get("namespace", "")) is not None
    except AuthorizationError:
        # Not permitted to look: counted as new, so that the need is rather over- than underestimated.
        return False


def judgements(cluster: Cluster, objects: list[Object]) -> Iterator[Finding]:
    """Let schemas, webhooks, quotas and pod security judge each object; nothing is stored."""
    refused = False
    for each in objects:
        change = judge(cluster, each, objects)
        if change.reason is not None:
            refused = refused or not change.reason.ok
            yield change.reason
    if not refused:
        yield Finding("dry run", "ok", f"the cluster takes all {len(objects)} objects")
