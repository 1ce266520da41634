"""The objects of a use case: what ``kubectl apply -f DIR`` takes, and what a run makes beside it."""

from __future__ import annotations

from collections.abc import Mapping
from errno import ENOTDIR
from pathlib import Path

import yaml

from fasttrack.errors import ConfigurationError, StorageError
from fasttrack.kubeflow.cluster.kinds import Object
from fasttrack.kubeflow.compile import PACKAGE, render
from fasttrack.kubeflow.experiment import experiment
from fasttrack.kubeflow.images import SPARK, TRAINER, image
from fasttrack.kubeflow.inference import inference_service
from fasttrack.kubeflow.names import usecase_object
from fasttrack.kubeflow.objects import Options
from fasttrack.kubeflow.pods import DATA, DATA_PATH, USECASE_FILE
from fasttrack.kubeflow.spark import spark_application
from fasttrack.kubeflow.trainjob import train_job
from fasttrack.usecase import UseCase, canonical_text

_WRITE = "Write it: `fasttrack compile USECASE -o DIR`, and name the same use case and namespace."


def compiled_objects(
    usecase: UseCase, *, registry: str, namespace: str, options: Options | None = None
) -> list[Object]:
    """What ``kubectl apply -f DIR`` would take of `fasttrack compile`'s output; folders below it aren't applied.

    Raises:
        ConfigurationError: as `fasttrack.kubeflow.compile.render`.
    """
    return objects_in(render(usecase, registry=registry, namespace=namespace, options=options))


def written(folder: Path) -> dict[str, str]:
    """The files that `fasttrack compile` wrote, by name, as `fasttrack.kubeflow.compile.render` gives them.

    Raises:
        StorageError: the folder can't be read.
    """
    try:
        if not folder.is_dir():
            raise NotADirectoryError(ENOTDIR, "there is no such folder")
        paths = sorted(path for path in folder.rglob("*") if path.suffix in (".yaml", ".json") and path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StorageError(f"can't be read: {reason}.", where=str(folder), fix=_WRITE) from error


def objects_in(contents: Mapping[str, str], folder: Path = Path()) -> list[Object]:
    """The objects among the files of `fasttrack compile`; folders below the first one aren't applied.

    Raises:
        ConfigurationError: there are none, or a file isn't YAML.
    """
    found = [each for name, text in contents.items() if _applied(name) for each in _documents(text, str(folder / name))]
    if not found:
        raise ConfigurationError("there are no objects.", where=str(folder), fix=_WRITE)
    return found


def jobs_in(contents: Mapping[str, str]) -> list[Object]:
    """The objects that only show what a run makes: those below ``jobs/``."""
    return [each for name, text in contents.items() if name.startswith("jobs/") for each in _documents(text, name)]


def steps_in(contents: Mapping[str, str]) -> frozenset[str]:
    """The tasks of the compiled pipeline that are steps: not conditions, exit handlers or other graphs.

    Raises:
        ConfigurationError: the pipeline isn't one.
    """
    try:
        spec = next(each for each in _documents(contents[PACKAGE], PACKAGE) if "root" in each)
        parts = spec["components"]
        graphs = [part["dag"]["tasks"] for part in (spec["root"], *parts.values()) if "dag" in part]
        tasks = [pair for graph in graphs for pair in graph.items()]
        return frozenset(name for name, task in tasks if "executorLabel" in parts[task["componentRef"]["name"]])
    except (StopIteration, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError("is no pipeline of KFP's.", where=PACKAGE, fix=_WRITE) from error


def require_same(contents: Mapping[str, str], usecase: UseCase, namespace: str, folder: Path) -> None:
    """Refuse written files that are of another use case, of another state of it, of another namespace, or not all.

    Raises:
        ConfigurationError: they are.
    """
    names = {"name": usecase_object(usecase), "namespace": namespace}
    maps = [each for each in objects_in(contents, folder) if each["kind"] == "ConfigMap"]
    found = [each for each in maps if names.items() <= each["metadata"].items()]
    if PACKAGE not in contents:
        raise ConfigurationError("the pipeline is missing.", where=str(folder / PACKAGE), fix=_WRITE)
    if not found:
        raise ConfigurationError(
            f"holds nothing of the use case {usecase.name} in the namespace {namespace}.", where=str(folder), fix=_WRITE
        )
    if found[0]["data"][USECASE_FILE] != canonical_text(usecase):
        raise ConfigurationError(
            f"was compiled from another state of the use case {usecase.name}.", where=str(folder), fix=_WRITE
        )


def _applied(name: str) -> bool:
    return name.endswith(".yaml") and "/" not in name


def _documents(text: str, where: str) -> list[Object]:
    try:
        return [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as error:
        raise ConfigurationError(f"isn't YAML: {error}", where=where, fix="Compile it again.") from error


def with_runs(objects: list[Object], usecase: UseCase, *, registry: str, namespace: str) -> list[Object]:
    """`objects`, and one of each kind that the launchers make in a run and that isn't among them."""
    kinds = {each["kind"] for each in objects}
    made = run_objects(usecase, registry=registry, namespace=namespace)
    return [*objects, *(each for each in made if each["kind"] not in kinds)]


def run_objects(usecase: UseCase, *, registry: str, namespace: str) -> list[Object]:
    """One of each kind that the launchers make, with stand-ins for what only a run knows (folders, version)."""
    trainer, digest = image(registry, TRAINER), "0" * 64
    return [
        spark_application(usecase, image=image(registry, SPARK), namespace=namespace, name=f"{usecase.name}-features"),
        experiment(usecase, image=trainer, namespace=namespace),
        train_job(
            usecase,
            image=trainer,
            namespace=namespace,
            name=f"{usecase.name}-train",
            features=f"{DATA_PATH}/lake/{usecase.name}/features",
            architecture=usecase.models[0].architecture,
            parameters={},
            out=f"{DATA_PATH}/runs/{usecase.name}/model",
        ),
        inference_service(
            usecase,
            registry=registry,
            namespace=namespace,
            version=1,
            digest=digest,
            storage_uri=f"pvc://{DATA}/packages/{usecase.name}/{digest}",
        ),
    ]
