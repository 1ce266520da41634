"""Step publish: serve a registered version, then say so to the gateway."""

from __future__ import annotations

import orjson

from fasttrack.registry import package
from fasttrack.registry.store import Registry
from fasttrack.steps.frame import step
from fasttrack.steps.keys import read_key
from fasttrack.steps.substrate import substrate
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
        urls = substrate().serve(at, model, usecase)
        if model.stage != "champion":
            registry.set_stage(model.name, model.version, "champion", _WHO, f"accepted by the gate in run {at.run_id}")
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
