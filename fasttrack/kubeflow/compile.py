"""``fasttrack compile``: from a use case to the files that a cluster takes; the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import orjson
import yaml

import fasttrack
from fasttrack.errors import ConfigurationError, StorageError
from fasttrack.kubeflow.definitions import training_pipeline
from fasttrack.kubeflow.experiment import experiment, usecase_object
from fasttrack.kubeflow.substrates import require_both
from fasttrack.usecase import UseCase, dump, load

NAMESPACE = "fasttrack"

_PREFIX = "fasttrack/"
_HEAD = "# Made by `fasttrack compile` from the use case {name}; change that and compile again.\n"


def compile_usecase(
    usecase_path: str | Path, out_dir: str | Path, *, registry: str = "", namespace: str = NAMESPACE
) -> list[Path]:
    """Write everything that a cluster needs for a use case.

    Objects for ``kubectl apply -f OUT`` lie in `out_dir` itself; what goes to KFP's API lies in ``kfp/`` below it,
    where kubectl doesn't look.

    Args:
        usecase_path: the use-case file.
        out_dir: a folder, made if it isn't there.
        registry: what stands before the steps' images: ``<registry>/fasttrack/<step>:<version>``.
        namespace: the namespace of the objects.

    Returns:
        The files, in order of their names.

    Raises:
        UseCaseError: the use case is malformed.
        ConfigurationError: the pipeline has a construct that one side can't run, or a name can't be used.
        StorageError: a file can't be written.
    """
    usecase = load(usecase_path)
    contents = render(usecase, registry=registry, namespace=namespace)
    folder = Path(out_dir)
    for name, text in contents.items():
        _write(folder / name, text)
    return [folder / name for name in contents]


def render(usecase: UseCase, *, registry: str = "", namespace: str = NAMESPACE) -> dict[str, str]:
    """The files of a use case by name, as `compile_usecase` writes them.

    Raises:
        ConfigurationError: as for `compile_usecase`.
    """
    pipeline = training_pipeline(usecase)
    _name_images(pipeline, registry)
    whole, version = _manifests(pipeline, usecase, namespace)
    spec, platform = version["spec"]["pipelineSpec"], version["spec"]["platformSpec"]
    require_both(spec)
    contents = {
        "kfp/training.yaml": _yaml([spec, platform]),
        "kfp/usecase.json": orjson.dumps(dump(usecase), option=orjson.OPT_INDENT_2).decode() + "\n",
        "pipeline.yaml": _yaml([whole, version]),
        "experiment.yaml": _yaml([experiment(usecase, image=image(registry, "tune"), namespace=namespace)]),
        "usecase.yaml": _yaml([_usecase(usecase, namespace)]),
    }
    head = _HEAD.format(name=usecase.name)
    return {n: text if n.endswith(".json") else head + text for n, text in sorted(contents.items())}


def image(registry: str, step: str) -> str:
    """The image of a step, of this version of the library."""
    prefix = f"{registry.rstrip('/')}/" if registry else ""
    return f"{prefix}{_PREFIX}{step}:{fasttrack.__version__}"


def canonical_text(usecase: UseCase) -> str:
    """The use case as YAML text without comments: what a compiled pipeline carries as its parameter's default."""
    # Not JSON: YAML 1.1 reads its 5e-05 as a word.
    return yaml.safe_dump(dump(usecase), sort_keys=False, allow_unicode=True, width=120)


def _name_images(pipeline: Any, registry: str) -> None:
    """Components name their image without registry and version, which are known only here."""
    for executor in pipeline.pipeline_spec.deployment_spec["executors"].values():
        name = executor["container"]["image"]
        if not name.startswith(_PREFIX):
            raise ConfigurationError(f"a step has the image {name!r}.", fix=f"Name it {_PREFIX}<step>.")
        executor["container"]["image"] = image(registry, name.removeprefix(_PREFIX))


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
    return whole, version


def _usecase(usecase: UseCase, namespace: str) -> dict[str, Any]:
    """The use case for pods that aren't steps of the pipeline, such as the trials."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": usecase_object(usecase), "namespace": namespace},
        "data": {"usecase.yaml": canonical_text(usecase)},
    }


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks: the steps' code stays readable, and so do changes of it."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


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
