"""What objects take for granted: Secrets, ConfigMaps, claims, accounts and runtimes that they name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fasttrack.errors import AuthorizationError, NotFoundError
from fasttrack.kubeflow.checks.finding import Finding
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.kinds import (
    CONFIG_MAP,
    PERSISTENT_VOLUME_CLAIM,
    SECRET,
    SERVICE_ACCOUNT,
    TRAINING_RUNTIME,
    Kind,
)

Object = Mapping[str, Any]

CLUSTER_TRAINING_RUNTIME = Kind("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime")
SERVING_RUNTIME = Kind("serving.kserve.io/v1alpha1", "ServingRuntime")
CLUSTER_SERVING_RUNTIME = Kind("serving.kserve.io/v1alpha1", "ClusterServingRuntime")
PRIORITY_CLASS = Kind("scheduling.k8s.io/v1", "PriorityClass")

#: How to come by what FastTrack's namespace has to hold; for others there is a general word.
CURES = {
    (SECRET, "fasttrack-secrets"): (
        "kubectl create secret generic fasttrack-secrets --from-literal=FASTTRACK_POSTGRES=... "
        "--from-literal=FASTTRACK_REDIS=... (or let External Secrets make it)."
    ),
    (SECRET, "fasttrack-signing-key"): (
        "kubectl create secret generic fasttrack-signing-key --from-file=signing.pem=PATH (an Ed25519 private key)."
    ),
    (SECRET, "fasttrack-verify-key"): (
        "kubectl create secret generic fasttrack-verify-key --from-file=verify.pem=PATH (its public half)."
    ),
}
# Strimzi's name for it: the Kafka's, and this.
_CA_SUFFIX = "-cluster-ca-cert"
_CA = (
    "Strimzi makes it with its Kafka (manifests/kustomize/components/kafka); for one elsewhere have it copied, or "
    "compile with --leave-out kafka."
)
_BASE = "Apply the base first: kubectl apply --server-side -k manifests/kustomize/overlays/dev."


@dataclass(frozen=True, order=True)
class Reference:
    """A name that an object takes for granted.

    Attributes:
        kind: what it names.
        name: its name.
        keys: the keys that it has to have, where it is known.
        by: the object that names it.
    """

    kind: Kind
    name: str
    keys: tuple[str, ...] = ()
    by: str = ""


def references(objects: Iterable[Object]) -> list[Reference]:
    """Every name that `objects` take for granted, wherever it stands in them; optional ones are left out."""
    found: dict[tuple[Kind, str], Reference] = {}
    for each in objects:
        by = f"{each['kind']} {each['metadata']['name']}"
        for kind, name, key in _walk(each.get("spec") or {}):
            if not name:
                continue
            old = found.get((kind, name), Reference(kind, name, (), by))
            keys = tuple(sorted({*old.keys, key} if key else set(old.keys)))
            found[(kind, name)] = Reference(kind, name, keys, old.by)
    return sorted(found.values())


def _walk(value: Any) -> Iterator[tuple[Kind, str, str]]:
    if isinstance(value, list):
        for item in value:
            yield from _walk(item)
        return
    if not isinstance(value, Mapping):
        return
    yield from _here(value)
    for item in value.values():
        yield from _walk(item)


def _here(value: Mapping[str, Any]) -> Iterator[tuple[Kind, str, str]]:
    for word, kind in (("secretKeyRef", SECRET), ("configMapKeyRef", CONFIG_MAP)):
        given = value.get(word)
        if isinstance(given, Mapping) and not given.get("optional"):
            yield kind, given.get("name", ""), given.get("key", "")
    for word, kind in (("secretRef", SECRET), ("configMapRef", CONFIG_MAP)):
        given = value.get(word)
        if isinstance(given, Mapping) and not given.get("optional"):
            yield kind, given.get("name", ""), ""
    yield from _volume(value)
    yield from _of_step(value)
    if isinstance(account := value.get("serviceAccountName", value.get("serviceAccount")), str):
        yield SERVICE_ACCOUNT, account, ""
    if isinstance(priority := value.get("priorityClassName"), str):
        yield PRIORITY_CLASS, priority, ""
    if isinstance(runtime := value.get("runtimeRef"), Mapping):
        namespaced = runtime.get("kind") == TRAINING_RUNTIME.kind
        yield TRAINING_RUNTIME if namespaced else CLUSTER_TRAINING_RUNTIME, runtime.get("name", ""), ""
    if "modelFormat" in value and isinstance(runtime := value.get("runtime"), str):
        yield SERVING_RUNTIME, runtime, ""
    if isinstance(uri := value.get("storageUri"), str) and uri.startswith("pvc://"):
        yield PERSISTENT_VOLUME_CLAIM, uri.removeprefix("pvc://").partition("/")[0], ""


def _volume(value: Mapping[str, Any]) -> Iterator[tuple[Kind, str, str]]:
    for word, field, kind in (("secret", "secretName", SECRET), ("configMap", "name", CONFIG_MAP)):
        given = value.get(word)
        if isinstance(given, Mapping) and isinstance(given.get(field), str) and not given.get("optional"):
            keys = [item.get("key", "") for item in given.get("items") or ()] or [""]
            for key in keys:
                yield kind, given[field], key
    claim = value.get("persistentVolumeClaim")
    if isinstance(claim, Mapping) and isinstance(claim.get("claimName"), str):
        yield PERSISTENT_VOLUME_CLAIM, claim["claimName"], ""


def _of_step(value: Mapping[str, Any]) -> Iterator[tuple[Kind, str, str]]:
    """What a step of a pipeline names, in the words of kfp-kubernetes."""
    for word, field, kind in (
        ("secretAsVolume", "secretName", SECRET),
        ("secretAsEnv", "secretName", SECRET),
        ("configMapAsVolume", "configMapName", CONFIG_MAP),
        ("configMapAsEnv", "configMapName", CONFIG_MAP),
    ):
        for each in _items(value.get(word)):
            if not each.get("optional"):
                yield kind, each.get(field, ""), ""
    for each in _items(value.get("pvcMount")):
        given = each.get("pvcNameParameter", {}).get("runtimeValue", {}).get("constant") or each.get("constant", "")
        yield PERSISTENT_VOLUME_CLAIM, given, ""


def _items(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def check_references(cluster: Cluster, objects: Iterable[Object], namespace: str) -> Iterator[Finding]:
    """Whether what `objects` name is in the namespace, or among `objects` themselves."""
    known = list(objects)
    made = made_by(known)
    for each in references(known):
        if (each.kind.kind, each.name) not in made:
            yield check_reference(cluster, each, namespace)


def made_by(objects: Iterable[Object]) -> set[tuple[str, str]]:
    """Kind and name of `objects`, and of what an operator makes of them: a KafkaUser's certificate."""
    known = [(each["kind"], each["metadata"]["name"]) for each in objects]
    return {*known, *((SECRET.kind, name) for kind, name in known if kind == "KafkaUser")}


def check_reference(cluster: Cluster, wanted: Reference, namespace: str) -> Finding:
    """Whether one thing is there, with the keys that it has to have."""
    title = f"{wanted.kind.kind} {wanted.name}"
    by = f", which {wanted.by} names," if wanted.by else ""
    certificate = wanted.kind == SECRET and wanted.name.endswith(_CA_SUFFIX)
    cure = _CA if certificate else CURES.get((wanted.kind, wanted.name), _BASE)
    if not cluster.serves(wanted.kind):
        return Finding(
            title, "mend", f"{title}{by} can't be there: the cluster doesn't know {wanted.kind}", cure, NotFoundError
        )
    try:
        found = cluster.find(wanted.kind, wanted.name, namespace)
        if found is None and wanted.kind == SERVING_RUNTIME:
            found = cluster.find(CLUSTER_SERVING_RUNTIME, wanted.name)
    except AuthorizationError:
        return Finding(title, "note", "could not be checked: not permitted to read it", "Ask its owner.")
    if found is None:
        return Finding(title, "mend", f"{title}{by} is not in the namespace {namespace!r}", cure, NotFoundError)
    there = {*(found.get("data") or {}), *(found.get("binaryData") or {})}
    if absent := [key for key in wanted.keys if key not in there]:
        return Finding(title, "mend", f"{title} has no {', '.join(absent)}", cure, NotFoundError)
    return Finding(title, "ok", "there")
