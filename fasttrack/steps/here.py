"""The substrate of a laptop: the steps' work in this process and its children."""

from __future__ import annotations

import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from fasttrack.settings import Settings
from fasttrack.steps.frame import Step, write_text
from fasttrack.usecase import UseCase

if TYPE_CHECKING:
    from fasttrack.registry.records import ModelVersion

_ROLES = ("predictor", "transformer", "explainer")


class Here:
    """See `fasttrack.steps.substrate.Substrate`. Libraries are imported only by the work that needs them."""

    def features(self, at: Step, versions: dict[str, int]) -> dict[str, Any]:
        """Spark in a child of this process."""
        return build_features(at.usecase, at.settings, versions, at.record)

    def fit(
        self, at: Step, features: str, architecture: str, parameters: dict[str, Any], folder: Path
    ) -> dict[str, Any]:
        """Processes of torchrun."""
        from fasttrack.training.fit import fit

        # A fit that an earlier run broke off in this folder goes on from its last epoch.
        made = fit(at.usecase, features, architecture, parameters, folder)
        return {"scores": made.scores, "curve": made.curve}

    def search(self, at: Step, features: str, round: int, storage: Path) -> dict[str, Any]:
        """Optuna."""
        from fasttrack.tuning.search import tune

        found = tune(at.usecase, features, round=round, storage=storage)
        plain: dict[str, Any] = orjson.loads(orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY))
        return plain

    def serve(self, at: Step, model: ModelVersion, usecase: str) -> dict[str, str]:
        """Servers of the local platform, started unless they run."""
        from fasttrack.local import control
        from fasttrack.settings import data_home

        home, path = data_home(), _usecase_file(model)
        same = path.is_file() and path.read_text(encoding="utf-8") == usecase
        served = _served(home, model, path) if same else None
        at.record["reused"] = served is not None
        if served is not None:
            return served
        write_text(path, usecase)
        return control.publish(home, model.name, path, model.uri, version=model.version, digest=model.digest)

    def sweep(self, run_id: str, usecase: str) -> list[str]:
        """Nothing: the run's owner ends its steps, and these their children."""
        return []


def build_features(
    usecase: UseCase, settings: Settings, versions: dict[str, int] | None, record: dict[str, Any]
) -> dict[str, Any]:
    """The features step's work, for this process or for the driver of a SparkApplication.

    Args:
        usecase: the use case.
        settings: where the parts are.
        versions: the Delta version to read of each stream; the newest by default.
        record: gets each result as soon as it is there, so that a failure leaves what came before it.

    Returns:
        ``table``, ``quality`` and ``online``, as JSON values.

    Raises:
        As `fasttrack.features.job.build`, `fasttrack.features.quality.check` and
        `fasttrack.features.online.materialize`.
    """
    from fasttrack.features.job import build
    from fasttrack.features.online import materialize
    from fasttrack.features.online.definitions import load_feast
    from fasttrack.features.quality import check

    # Feast loads while Spark is waited for.
    threading.Thread(target=load_feast, name="load-feast", daemon=True).start()
    table = build(usecase, settings, versions=versions)
    record["table"] = asdict(table)
    record["quality"] = asdict(check(usecase, table.path))
    record["online"] = asdict(materialize(usecase, settings))
    return {name: record[name] for name in ("table", "quality", "online")}


def serve_beside(home: Path, model: ModelVersion, usecase: str) -> dict[str, str]:
    """Servers of the local platform for a version beside the one that is published; see `Here.serve`.

    Raises:
        UnavailableError: the platform is not up, or a server doesn't start.
        NotFoundError: nothing is published.
    """
    from fasttrack.local import control

    path = _usecase_file(model)
    write_text(path, usecase)
    return control.beside(home, model.name, path, Path(model.uri), version=model.version, digest=model.digest)


def _usecase_file(model: ModelVersion) -> Path:
    """Beside the package: the platform starts the servers again from this file after a restart."""
    return Path(model.uri).parent / f"usecase-v{model.version}.yaml"


def _served(home: Path, model: ModelVersion, path: Path) -> dict[str, str] | None:
    from fasttrack.local import control
    from fasttrack.local.home import Home

    known = Home(home).state().publications.get(model.name, {})
    wanted = {"package": model.uri, "usecase": str(path), "version": model.version, "digest": model.digest}
    if any(known.get(name) != value for name, value in wanted.items()):
        return None
    running = {part.name for part in control.status(home) if part.state == "running"}
    if not {f"{model.name}-{role}-{known['slot']}" for role in known.get("roles", _ROLES)} <= running:
        return None
    urls: dict[str, str] = known["urls"]
    return urls
