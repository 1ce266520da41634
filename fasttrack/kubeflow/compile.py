"""``fasttrack compile``: from a use case to the files that a cluster takes; the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path
from typing import Any

import orjson
import yaml

from fasttrack.errors import StorageError
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.definitions import training_pipeline
from fasttrack.kubeflow.images import image
from fasttrack.kubeflow.kafka_objects import gateway_component
from fasttrack.kubeflow.names import usecase_object
from fasttrack.kubeflow.objects import Options, documents, kafka_access
from fasttrack.kubeflow.pods import NAMESPACE
from fasttrack.kubeflow.schedules import recurring_run
from fasttrack.kubeflow.step_pods import complete_steps
from fasttrack.kubeflow.substrates import require_both
from fasttrack.kubeflow.validation import check
from fasttrack.usecase import UseCase, canonical_text, dump, load

__all__ = ["NAMESPACE", "Options", "compile_usecase", "image", "render"]

#: The pipeline, as KFP's API takes it, and its schedule, if it has one; names among the files of `render`.
PACKAGE = "kfp/training.yaml"
RECURRING = "kfp/recurring-run.json"
#: A component for the overlay: the gateway is one for all use cases, and so is its KafkaUser.
GATEWAY = "gateway/kustomization.yaml"

_HEAD = "# Made by `fasttrack compile` from the use case {name}; change that and compile again.\n"


def compile_usecase(
    usecase_path: str | Path,
    out_dir: str | Path,
    *,
    registry: str = "",
    namespace: str = NAMESPACE,
    options: Options | None = None,
) -> list[Path]:
    """Write everything that a cluster needs for a use case.

    Objects for ``kubectl apply -f OUT`` lie in `out_dir` itself; what goes to KFP's API lies in ``kfp/`` below it,
    where kubectl doesn't look. Applying the folder starts nothing: what a run starts is written suspended.

    Args:
        usecase_path: the use-case file.
        out_dir: a folder, made if it isn't there.
        registry: what stands before the images: ``<registry>/fasttrack/<deployable>:<version>``.
        namespace: the namespace of the objects.
        options: what the use case doesn't say: schedules, replicas, the names of the cluster's parts.

    Returns:
        The files, in order of their names.

    Raises:
        UseCaseError: the use case is malformed.
        ConfigurationError: the pipeline has a construct that one side can't run, or a cluster would refuse an object.
        StorageError: a file can't be written.
    """
    usecase = load(usecase_path)
    contents = render(usecase, registry=registry, namespace=namespace, options=options)
    folder = Path(out_dir)
    for name, text in contents.items():
        _write(folder / name, text)
    return [folder / name for name in contents]


def render(
    usecase: UseCase, *, registry: str = "", namespace: str = NAMESPACE, options: Options | None = None
) -> dict[str, str]:
    """The files of a use case by name, as `compile_usecase` writes them.

    Raises:
        ConfigurationError: as for `compile_usecase`.
    """
    chosen = options or Options()
    pipeline = training_pipeline(usecase)
    complete_steps(pipeline, registry, chosen, kafka_access(usecase, chosen, namespace, "drain"))
    whole, version = _manifests(pipeline, usecase, namespace)
    spec, platform = version["spec"]["pipelineSpec"], version["spec"]["platformSpec"]
    require_both(spec)
    made = {
        "pipeline.yaml": [whole, version],
        "usecase.yaml": [_usecase(usecase, namespace)],
        **documents(usecase, chosen, registry, namespace),
    }
    check([document for name in sorted(made) for document in made[name]], restricted=[namespace])
    contents = {
        PACKAGE: _yaml([spec, platform]),
        "kfp/usecase.json": orjson.dumps(dump(usecase), option=orjson.OPT_INDENT_2).decode() + "\n",
        **{name: _yaml(objects) for name, objects in made.items()},
    }
    if "kafka" not in chosen.leave_out and (rights := gateway_component(usecase)):
        contents[GATEWAY] = _yaml([rights])
    if chosen.retrain:
        recurring = recurring_run(usecase, schedule=chosen.retrain, version=version["metadata"]["name"])
        contents[RECURRING] = orjson.dumps(recurring, option=orjson.OPT_INDENT_2).decode() + "\n"
    head = _HEAD.format(name=usecase.name)
    return {n: text if n.endswith(".json") else head + text for n, text in sorted(contents.items())}


def _manifests(pipeline: Any, usecase: UseCase, namespace: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pipeline and PipelineVersion; versions can't be changed on a cluster, so their name tells their content."""
    from kfp.compiler import Compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    options = KubernetesManifestOptions(namespace=namespace, include_pipeline_manifest=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifests.yaml"
        # Not KFP's plain format: that puts a default of several lines into a comment of one.
        Compiler().compile(
            pipeline,
            str(path),
            pipeline_parameters={"usecase": canonical_text(usecase)},
            kubernetes_manifest_format=True,
            kubernetes_manifest_options=options,
        )
        whole, version = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    content = orjson.dumps(version["spec"], option=orjson.OPT_SORT_KEYS)
    version["metadata"]["name"] += f"-{hashlib.sha256(content).hexdigest()[:10]}"
    for document in (whole, version):
        document["metadata"]["labels"] = pods.labels("pipeline", usecase)
    return whole, version


def _usecase(usecase: UseCase, namespace: str) -> dict[str, Any]:
    """The use case for pods that aren't steps of the pipeline, such as the trials."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": pods.metadata(usecase_object(usecase), namespace, "usecase", usecase),
        "data": {pods.USECASE_FILE: canonical_text(usecase)},
    }


# Texts that Go's YAML reads as numbers or truth values where Python's doesn't: 1e-05 is one.
_AMBIGUOUS = re.compile(r"[-+]?[0-9._]+([eE][-+]?[0-9]+)?|0[xXoObB][0-9a-fA-F_]+|[yYnN]|~")


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks: the steps' code stays readable, and so do changes of it."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if _AMBIGUOUS.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]


def _yaml(documents: list[dict[str, Any]]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=True, allow_unicode=True, width=120)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"can't be written: {error.strerror}.", where=str(path), fix="Give another folder."
        ) from error
