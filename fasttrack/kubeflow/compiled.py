"""The objects of a use case: what ``kubectl apply -f DIR`` takes, and what a run makes beside it."""

from __future__ import annotations

from pathlib import Path

import yaml

from fasttrack.errors import ConfigurationError, StorageError
from fasttrack.kubeflow.cluster.kinds import Object
from fasttrack.kubeflow.compile import render
from fasttrack.kubeflow.experiment import experiment
from fasttrack.kubeflow.images import SPARK, TRAINER, image
from fasttrack.kubeflow.inference import inference_service
from fasttrack.kubeflow.names import usecase_object
from fasttrack.kubeflow.objects import Options
from fasttrack.kubeflow.pods import DATA, DATA_PATH, USECASE_FILE
from fasttrack.kubeflow.spark import spark_application
from fasttrack.kubeflow.trainjob import train_job
from fasttrack.usecase import UseCase, canonical_text

#: The pipeline among the files of `fasttrack compile`, as KFP's API takes it.
PACKAGE = "kfp/training.yaml"
_WRITE = "Write it: `fasttrack compile USECASE -o DIR`, and name the same use case and namespace."


def compiled_objects(
    usecase: UseCase, *, registry: str, namespace: str, options: Options | None = None
) -> list[Object]:
    """What ``kubectl apply -f DIR`` would take of `fasttrack compile`'s output; folders below it aren't applied.

    Raises:
        ConfigurationError: as `fasttrack.kubeflow.compile.render`.
    """
    contents = render(usecase, registry=registry, namespace=namespace, options=options)
    return [each for name, text in contents.items() if _applied(name) for each in _documents(text, name)]


def written_objects(folder: Path) -> list[Object]:
    """What ``kubectl apply -f DIR`` would take of a folder that `fasttrack compile` wrote, with all its options.

    Raises:
        StorageError: the folder can't be read.
        ConfigurationError: there is nothing in it, or a file isn't YAML.
    """
    try:
        texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir()) if path.is_file()}
    except OSError as error:
        raise StorageError(f"can't be read: {error.strerror}.", where=str(folder), fix=_WRITE) from error
    found = [each for name, text in texts.items() if _applied(name) for each in _documents(text, str(folder / name))]
    if not found:
        raise ConfigurationError("there are no objects.", where=str(folder), fix=_WRITE)
    return found


def written_package(folder: Path) -> str:
    """The pipeline, as KFP's API takes it, of a folder that `fasttrack compile` wrote.

    Raises:
        StorageError: it can't be read.
    """
    try:
        return (folder / PACKAGE).read_text(encoding="utf-8")
    except OSError as error:
        raise StorageError(f"can't be read: {error.strerror}.", where=str(folder / PACKAGE), fix=_WRITE) from error


def require_same(objects: list[Object], usecase: UseCase, namespace: str, folder: Path) -> None:
    """Refuse written objects that are of another use case, of another state of it, or of another namespace.

    Raises:
        ConfigurationError: they are.
    """
    names = {"name": usecase_object(usecase), "namespace": namespace}
    found = [each for each in objects if each["kind"] == "ConfigMap" and names.items() <= each["metadata"].items()]
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
