"""Step publish: serve a registered version, then say so to the gateway."""

from __future__ import annotations

from pathlib import Path

import orjson

from fasttrack.local import control
from fasttrack.local.home import Home
from fasttrack.registry import package
from fasttrack.registry.records import ModelVersion
from fasttrack.registry.store import Registry
from fasttrack.settings import data_home
from fasttrack.steps.frame import Step, step, write_text
from fasttrack.steps.keys import read_key
from fasttrack.usecase import dump

_WHO = "training pipeline"
_ROLES = ("predictor", "transformer", "explainer")


def publish(usecase: str, run_id: str, version: str) -> str:
    """Start the servers of a version, make it the champion, and let the gateway know.

    The order matters: callers are sent to the new servers only when these answer. What is served already, with the
    same use case, is left alone.

    Args:
        usecase: the use case as YAML text.
        run_id: name of the run.
        version: the registered version.

    Returns:
        JSON text: version, digest and the servers' URLs.

    Raises:
        IntegrityError: the package was changed since it was signed.
        UnavailableError: the platform or a server does not come up; what was served before goes on.
        ConflictError: somebody rejected the version.
    """
    with step("publish", usecase, run_id) as at:
        registry = Registry(at.settings.require("postgres"))
        model = registry.get(at.usecase.name, int(version))
        files = package.load_verified(model.uri, read_key(at.settings, "verify_key"), model.digest)
        urls = _serve(at, model, usecase)
        if model.stage != "champion":
            registry.set_stage(model.name, model.version, "champion", _WHO, f"accepted by the gate in run {run_id}")
        registry.deploy(
            model.name,
            model.version,
            signature=orjson.loads(files["signature.json"]),
            usecase_document=dump(at.usecase),
            **{f"{role}_url": urls[f"{role}_url"] for role in _ROLES},
        )
        registry.close()
        answer = {"version": model.version, "digest": model.digest, "urls": urls}
        at.record.update(answer)
        return orjson.dumps(answer, option=orjson.OPT_SORT_KEYS).decode()


def _serve(at: Step, model: ModelVersion, usecase: str) -> dict[str, str]:
    """The URLs of the version's servers, started unless they run."""
    home, path = data_home(), Path(model.uri).parent / f"usecase-v{model.version}.yaml"
    same = path.is_file() and path.read_text(encoding="utf-8") == usecase
    served = _served(home, model, path) if same else None
    at.record["reused"] = served is not None
    if served is not None:
        return served
    # Beside the packages: the platform starts the servers again from this file after a restart.
    write_text(path, usecase)
    return control.publish(home, model.name, path, model.uri, version=model.version, digest=model.digest)


def _served(home: Path, model: ModelVersion, path: Path) -> dict[str, str] | None:
    known = Home(home).state().publications.get(model.name, {})
    wanted = {"package": model.uri, "usecase": str(path), "version": model.version, "digest": model.digest}
    if any(known.get(name) != value for name, value in wanted.items()):
        return None
    running = {part.name for part in control.status(home) if part.state == "running"}
    if not {f"{model.name}-{role}-{known['slot']}" for role in _ROLES} <= running:
        return None
    urls: dict[str, str] = known["urls"]
    return urls
