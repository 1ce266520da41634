"""Step register: pack, sign, register."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from fasttrack.errors import GateError, NotFoundError
from fasttrack.registry import package
from fasttrack.registry.records import Lineage, ModelVersion
from fasttrack.registry.store import Registry
from fasttrack.runs import read_records
from fasttrack.steps.frame import ACCEPTED, step
from fasttrack.steps.keys import read_key
from fasttrack.steps.lineage import trace

LINEAGE = "lineage.json"
METRICS = "metrics.json"


@dataclass(frozen=True)
class Registered:
    """The registered version.

    Attributes:
        version: its number, as text.
        metadata: name, version, digest and place of the package.
    """

    version: str
    metadata: dict[str, str]


def register(usecase: str, run_id: str, lake: str, model: str, round: int) -> Registered:
    """Make a signed package of an accepted model and register it.

    A run that comes to the very package that is in service registers nothing new.

    Args:
        usecase: the use case as YAML text.
        run_id: name of the run.
        lake: JSON text: the Delta version of each stream's table.
        model: the folder of the evaluated model.
        round: the round in which the gate accepted it, from 1.

    Raises:
        GateError: the gate did not accept the model.
        NotFoundError: a file of the package, or the run's record of the step validate, is missing.
        UnavailableError: the registry's database does not answer.
        StorageError: the package can't be written.
    """
    with step("register", usecase, run_id) as at:
        records = read_records(at.settings, at.usecase.name, at.run_id)
        _require_acceptance(records, round, str(at.folder))
        registry = Registry(at.settings.require("postgres"))
        registry.migrate()
        champion = _champion(registry, at.usecase.name)
        traced = trace(at.usecase, orjson.loads(lake), _offsets(records, str(at.folder)))
        files = _files(Path(model))
        made, traced = _build(files, traced, registry, champion, read_key(at.settings, "signing_key"))
        path = package.write(made, at.settings.require("packages") + f"/{at.usecase.name}")
        found = registry.register_model(
            at.usecase.name,
            str(path),
            metadata={"run_id": at.run_id, "round": round},
            digest=made.digest,
            metrics=orjson.loads(files[METRICS]),
            lineage=traced,
        )
        registry.close()
        metadata = {"name": found.name, "version": str(found.version), "digest": found.digest, "uri": found.uri}
        at.record.update(
            metadata, lineage=asdict(traced), reused=champion is not None and champion.digest == found.digest
        )
        return Registered(str(found.version), metadata)


def _require_acceptance(records: dict[str, dict[str, Any]], round: int, where: str) -> None:
    """A condition that went wrong in the pipeline must not bring a refused model into service."""
    if records.get(f"gate-{round}", {}).get("decision") != ACCEPTED:
        raise GateError(f"the gate did not accept the model of round {round}.", where=where)


def _offsets(records: dict[str, dict[str, Any]], where: str) -> Any:
    try:
        return records["validate"]["reconciliation"]["offsets"]
    except KeyError as error:
        raise NotFoundError(
            "the run has no record of its step validate: what the model was made of can't be traced.",
            where=where,
            fix="Run the pipeline from its beginning; all steps have to see the same folder FASTTRACK_RUNS.",
        ) from error


def _champion(registry: Registry, name: str) -> ModelVersion | None:
    try:
        return registry.get(name, "champion")
    except NotFoundError:
        return None


def _build(
    files: dict[str, bytes], traced: Lineage, registry: Registry, champion: ModelVersion | None, key: bytes
) -> tuple[package.Package, Lineage]:
    """The package; the same inputs have to give the champion's digest again, so its parent is tried first."""
    if champion is not None:
        again = replace(traced, parent_version=_parent(registry, champion))
        made = package.build(files | {LINEAGE: _json(again)}, key)
        if made.digest == champion.digest:
            return made, again
        traced = replace(traced, parent_version=champion.version)
    return package.build(files | {LINEAGE: _json(traced)}, key), traced


def _parent(registry: Registry, version: ModelVersion) -> int | None:
    try:
        return registry.lineage(version.name, version.version).parent_version
    except NotFoundError:
        return None


def _json(traced: Lineage) -> bytes:
    return orjson.dumps(asdict(traced), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


def _files(model: Path) -> dict[str, bytes]:
    names = [name for name in package.LIMITS if name != LINEAGE]
    missing = [name for name in names if not (model / name).is_file()]
    if missing:
        raise NotFoundError(
            f"the model has no {', '.join(missing)}.", where=str(model), fix="Train and evaluate it again."
        )
    names += [name for name in (*package.EXPLAINER, *package.NOVELTY) if (model / name).is_file()]
    return {name: (model / name).read_bytes() for name in names}
