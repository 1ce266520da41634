"""What Kubernetes itself wants of every object: names, labels, and small core kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fasttrack.kubeflow.names import is_dns_1035, is_dns_1123_subdomain, is_label_value
from fasttrack.kubeflow.schemas.structural import Problem

Object = dict[str, Any]

_KEY_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_MOST_BYTES = 1024 * 1024
_KNOWN = {"name", "namespace", "labels", "annotations", "generateName", "ownerReferences", "finalizers"}


def metadata_problems(document: Object) -> Iterator[Problem]:
    """Problems of an object's metadata."""
    found = document.get("metadata")
    if not isinstance(found, dict):
        yield Problem("metadata", "is required.")
        return
    for key in sorted(set(found) - _KNOWN):
        yield Problem(f"metadata.{key}", "is not for whoever writes the object.")
    name = found.get("name")
    if not isinstance(name, str) or not is_dns_1123_subdomain(name):
        yield Problem("metadata.name", f"{name!r} is not a name: lower case letters, digits, '-' and '.', at most 253.")
    namespace = found.get("namespace", "default")
    if not isinstance(namespace, str) or not is_dns_1123_subdomain(namespace) or not _is_label(namespace):
        yield Problem("metadata.namespace", f"{namespace!r} is not a namespace: a DNS label of at most 63 characters.")
    yield from label_problems(found.get("labels"), "metadata.labels")
    for key in found.get("annotations") or {}:
        if not _is_key(str(key)):
            yield Problem("metadata.annotations", f"{key!r} is not a key of annotations.")


def label_problems(labels: Any, path: str) -> Iterator[Problem]:
    """Problems of labels, wherever they stand."""
    if labels is None:
        return
    if not isinstance(labels, dict):
        yield Problem(path, "is not a mapping.")
        return
    for key, value in labels.items():
        if not _is_key(str(key)):
            yield Problem(path, f"{key!r} is not a key of labels.")
        if not isinstance(value, str) or not is_label_value(value):
            yield Problem(
                f"{path}[{key}]", f"{value!r} is not the value of a label: at most 63 letters, digits, '-_.'."
            )


def config_map_problems(document: Object) -> Iterator[Problem]:
    """Problems of a ConfigMap."""
    data = document.get("data", {})
    for key in sorted(set(document) - {"apiVersion", "kind", "metadata", "data", "binaryData", "immutable"}):
        yield Problem(key, "unknown field of a ConfigMap.")
    if not isinstance(data, dict):
        yield Problem("data", "is not a mapping.")
        return
    for key, value in data.items():
        if not _DATA_KEY.fullmatch(str(key)) or str(key) in (".", ".."):
            yield Problem("data", f"{key!r} is not a key of a ConfigMap: letters, digits, '-', '_' and '.'.")
        if not isinstance(value, str):
            yield Problem(f"data.{key}", f"{value!r} is not a text.")
    size = sum(len(str(value).encode()) for value in data.values())
    if size > _MOST_BYTES:
        yield Problem("data", f"holds {size} bytes; a ConfigMap holds {_MOST_BYTES}. Make the use case smaller.")


def name_problem(document: Object, limit: int, reason: str) -> Iterator[Problem]:
    """A problem if the name is no DNS-1035 label of at most `limit` characters."""
    name = str(document.get("metadata", {}).get("name"))
    if len(name) > limit or not is_dns_1035(name):
        rule = f"lower case letters, digits and '-', a letter first, at most {limit} characters"
        yield Problem("metadata.name", f"{name!r} can't be used: {rule}, {reason}.")


def dig(document: Any, *path: str) -> Any:
    """What lies at `path`, or None."""
    for part in path:
        if not isinstance(document, dict) or part not in document:
            return None
        document = document[part]
    return document


def _is_key(key: str) -> bool:
    prefix, mark, name = key.rpartition("/")
    return (not mark or is_dns_1123_subdomain(prefix)) and _KEY_NAME.fullmatch(name) is not None


def _is_label(text: str) -> bool:
    return len(text) <= 63 and "." not in text
