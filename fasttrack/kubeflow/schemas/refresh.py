"""Take the schemas anew from CRDs: ``python -m fasttrack.kubeflow.schemas.refresh CRDS_DIR``.

CRDS_DIR holds the CRDs as YAML files; a table in its ``VERSIONS.md`` (``| file | project | version ...``) tells their
releases. What offline validation doesn't need is left out: descriptions, status, and every subtree is kept once.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fasttrack.errors import ConfigurationError, FastTrackError
from fasttrack.kubeflow.schemas import PATH, REFERENCE
from fasttrack.kubeflow.schemas.cel import compile_rule

Node = dict[str, Any]

#: File of CRDS_DIR, without ``.yaml``, and the kinds that are taken from it.
KINDS = {
    "argo-workflows": ("Workflow",),
    "kfp": ("Pipeline", "PipelineVersion"),
    "katib": ("Experiment",),
    "spark-operator": ("SparkApplication", "ScheduledSparkApplication"),
    "trainer": ("TrainJob", "TrainingRuntime"),
    "kserve": ("InferenceService", "ServingRuntime", "InferenceGraph"),
    "strimzi": ("KafkaTopic", "KafkaUser", "KafkaConnector"),
    "prometheus-operator": ("ServiceMonitor", "PodMonitor", "PrometheusRule"),
    "gateway-api": ("HTTPRoute",),
}

_NOISE = {"description", "title", "example", "externalDocs", "x-kubernetes-map-type", "format"}
_SMALLEST_SHARED = 40
_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_VERSION = re.compile(r"^\|\s*([\w-]+)\.yaml\s*\|[^|]*\|\s*([^\s,|]+)")


def main(arguments: list[str]) -> int:
    """Write ``definitions.json``; returns the exit code."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        text = build(Path(arguments[0]))
    except (FastTrackError, OSError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    PATH.write_text(text, encoding="utf-8")
    print(f"{PATH}: {len(text) // 1024} KiB")
    return 0


def build(folder: Path) -> str:
    """The content of ``definitions.json``: the same CRDs give the same text.

    Raises:
        ConfigurationError: a kind has no CRD there, or a rule of one can't be evaluated here.
    """
    found = {name: node for file in sorted(KINDS) for name, node in _kinds(folder, file)}
    for node in found.values():
        _check_rules(node)
    shared, names = _shared(found)
    content: dict[str, dict[str, Any]] = {
        "kinds": {name: _replace(node, names, top=True) for name, node in sorted(found.items())},
        "shared": {name: _replace(node, names, top=True) for name, node in shared.items()},
        "versions": _versions(folder),
    }
    # One subtree a line: a change of a release shows as one.
    lines = [f'"{part}": {{\n' + ",\n".join(_lines(values)) + "\n}" for part, values in sorted(content.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _lines(values: Node) -> Iterator[str]:
    return (f"{json.dumps(name)}: {_canonical(value)}" for name, value in values.items())


def _kinds(folder: Path, file: str) -> Iterator[tuple[str, Node]]:
    wanted = set(KINDS[file])
    text = (folder / f"{file}.yaml").read_text(encoding="utf-8")
    for crd in yaml.load_all(text, Loader=_LOADER):
        if not crd or crd.get("kind") != "CustomResourceDefinition" or crd["spec"]["names"]["kind"] not in wanted:
            continue
        spec = crd["spec"]
        version = next(version for version in spec["versions"] if version["storage"])
        schema = _strip(version["schema"]["openAPIV3Schema"])
        if "status" not in schema.get("required", ()):
            schema.get("properties", {}).pop("status", None)
        wanted.discard(spec["names"]["kind"])
        yield f"{spec['group']}/{version['name']}/{spec['names']['kind']}", schema
    if wanted:
        raise ConfigurationError(
            f"no CRD of {', '.join(sorted(wanted))}.", where=str(folder / f"{file}.yaml"), fix="Give all CRDs."
        )


def _strip(node: Any, *, names: bool = False) -> Any:
    """Without what validation doesn't need; `names`: the keys are names of fields, not words of the schema."""
    if isinstance(node, list):
        return [_strip(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if names or key not in _NOISE}
    return {key: _strip(value, names=key == "properties" and not names) for key, value in kept.items()}


def _check_rules(node: Any) -> None:
    if isinstance(node, dict):
        for rule in node.get("x-kubernetes-validations", ()):
            compile_rule(rule["rule"])
        for value in node.values():
            _check_rules(value)
    elif isinstance(node, list):
        for item in node:
            _check_rules(item)


def _shared(kinds: dict[str, Node]) -> tuple[dict[str, Node], dict[str, str]]:
    """Subtrees that occur more than once, and the name of each by its text."""
    count: Counter[str] = Counter()
    for node in kinds.values():
        count.update(_canonical(part) for part in _subtrees(node))
    texts = sorted(text for text, times in count.items() if times > 1 and len(text) >= _SMALLEST_SHARED)
    names = {text: f"{number:x}" for number, text in enumerate(texts)}
    return {name: json.loads(text) for text, name in names.items()}, names


def _subtrees(node: Node) -> Iterator[Node]:
    for part in _children(node):
        yield part
        yield from _subtrees(part)


def _children(node: Node) -> Iterator[Node]:
    yield from node.get("properties", {}).values()
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield node[key]


def _replace(node: Node, names: dict[str, str], *, top: bool = False) -> Node:
    if not top and (name := names.get(_canonical(node))):
        return {REFERENCE: name}
    made = dict(node)
    if "properties" in node:
        made["properties"] = {key: _replace(value, names) for key, value in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            made[key] = _replace(node[key], names)
    return made


def _canonical(node: Any) -> str:
    return json.dumps(node, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _versions(folder: Path) -> dict[str, str]:
    path = folder / "VERSIONS.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    told = {found[1]: found[2] for line in lines if (found := _VERSION.match(line))}
    return {file: told.get(file, "unknown") for file in sorted(KINDS)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
