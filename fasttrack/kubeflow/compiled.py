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
from fasttrack.kubeflow.objects import Options
from fasttrack.kubeflow.pods import DATA, DATA_PATH
from fasttrack.kubeflow.spark import spark_application
from fasttrack.kubeflow.trainjob import train_job
from fasttrack.usecase import UseCase


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
        fix = "Name a folder that `fasttrack compile -o DIR` wrote."
        raise StorageError(f"can't be read: {error.strerror}.", where=str(folder), fix=fix) from error
    found = [each for name, text in texts.items() if _applied(name) for each in _documents(text, str(folder / name))]
    if not found:
        fix = "Write it: `fasttrack compile USECASE -o DIR`."
        raise ConfigurationError("there are no objects.", where=str(folder), fix=fix)
    return found


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
