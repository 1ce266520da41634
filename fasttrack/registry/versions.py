"""SQL of model versions: numbers, stages, approvals and lineage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import cursor as Cursor

from fasttrack.errors import ConflictError, InvalidRequestError, NotFoundError
from fasttrack.registry.package import is_digest
from fasttrack.registry.records import (
    DECISIONS,
    STAGES,
    Approval,
    Decision,
    Lineage,
    ModelVersion,
    Stage,
    StageChange,
)
from fasttrack.registry.values import jsonb, required

_SELECT = """
SELECT name, version, digest, uri, stage, metadata, metrics, created_at FROM model_versions
WHERE (%(name)s IS NULL OR name = %(name)s) AND (%(version)s IS NULL OR version = %(version)s)
    AND (%(digest)s IS NULL OR digest = %(digest)s) AND (%(stage)s IS NULL OR stage = %(stage)s)
ORDER BY name, version DESC
"""


@dataclass(frozen=True)
class NewVersion:
    """A package to register; the fields are the arguments of `Registry.register_model`."""

    name: str
    uri: str
    version: int | None
    metadata: dict[str, Any]
    digest: str
    metrics: dict[str, Any]
    lineage: Lineage | None
    who: str


def register(cursor: Cursor, new: NewVersion) -> ModelVersion:
    """Register a package, or return the version that it has already; see `Registry.register_model`."""
    _check_new(new)
    last = _lock_model(cursor, new.name)
    if same := _find(cursor, new.name, digest=new.digest):
        known = same[0]
        if new.version not in (None, known.version):
            raise ConflictError(
                f"package {new.digest} is version {known.version} already, so it can't become {new.version}.",
                where=new.name,
                fix="Leave the version out, or register another package.",
            )
        return known
    version = last + 1 if new.version is None else new.version
    if taken := _find(cursor, new.name, version=version):
        raise ConflictError(
            f"version {version} is another package, {taken[0].digest}.",
            where=new.name,
            fix="Leave the version out to get the next number.",
        )
    cursor.execute(
        "INSERT INTO model_versions (name, version, digest, uri, metadata, metrics)"
        " VALUES (%s, %s, %s, %s, %s::jsonb, %s::jsonb)",
        (new.name, version, new.digest, new.uri, jsonb(new.metadata), jsonb(new.metrics)),
    )
    cursor.execute("UPDATE models SET last_version = %s WHERE name = %s", (max(last, version), new.name))
    _log_stage(cursor, new.name, version, (None, "candidate"), new.who, "registered")
    if new.lineage is not None:
        _insert_lineage(cursor, new.name, version, new.lineage)
    return get(cursor, new.name, version)


def get(cursor: Cursor, name: str, selector: int | Stage) -> ModelVersion:
    """A version by number or the newest in a stage.

    Raises:
        NotFoundError: there is none.
        InvalidRequestError: the stage is unknown.
    """
    if isinstance(selector, int):
        found = _find(cursor, name, version=selector)
        what = f"version {selector}"
    else:
        found = _find(cursor, name, stage=_stage(selector))
        what = f"version in stage {selector!r}"
    if found:
        return found[0]
    known = [str(version.version) for version in list_(cursor, name)]
    raise NotFoundError(
        f"the model has no {what}.",
        where=name,
        fix=f"Known versions: {', '.join(known)}." if known else "Register one first: run the training pipeline.",
    )


def list_(cursor: Cursor, name: str | None) -> tuple[ModelVersion, ...]:
    """The versions of a model, or of all, newest first."""
    return _find(cursor, name)


def lineage(cursor: Cursor, name: str, version: int) -> Lineage:
    """What a version came from.

    Raises:
        NotFoundError: there is no such version, or no lineage of it.
    """
    get(cursor, name, version)
    cursor.execute(
        "SELECT lake_versions, kafka_offsets, code_commit, seed, search_space, parent_version"
        " FROM lineage WHERE name = %s AND version = %s",
        (name, version),
    )
    if (row := cursor.fetchone()) is None:
        raise NotFoundError("the version was registered without lineage.", where=f"{name}:{version}")
    return Lineage(*row)


def approve(cursor: Cursor, name: str, version: int, who: str, why: str, decision: Decision) -> Approval:
    """Record a decision; see `Registry.approve`."""
    if decision not in DECISIONS:
        raise InvalidRequestError(f"decision {decision!r} is unknown.", fix=f"Use one of {', '.join(DECISIONS)}.")
    get(cursor, name, version)
    cursor.execute(
        "INSERT INTO approvals (name, version, who, why, decision) VALUES (%s, %s, %s, %s, %s)",
        (name, version, required(who, "who"), required(why, "why"), decision),
    )
    return approvals(cursor, name, version)[-1]


def approvals(cursor: Cursor, name: str, version: int) -> tuple[Approval, ...]:
    """The decisions on a version, oldest first.

    Raises:
        NotFoundError: there is no such version.
    """
    get(cursor, name, version)
    cursor.execute(
        "SELECT who, why, decision, at FROM approvals WHERE name = %s AND version = %s ORDER BY id", (name, version)
    )
    return tuple(Approval(*row) for row in cursor.fetchall())


def set_stage(cursor: Cursor, name: str, version: int, stage: Stage, who: str, why: str) -> ModelVersion:
    """Move a version to a stage; see `Registry.set_stage`."""
    _stage(stage)
    required(who, "who")
    required(why, "why")
    # The model's row is the lock: of two that would make a champion at once, one sees the other's done.
    cursor.execute("SELECT 1 FROM models WHERE name = %s FOR UPDATE", (name,))
    found = get(cursor, name, version)
    if found.stage == stage:
        return found
    if stage == "champion":
        check_not_rejected(cursor, name, version)
        approve(cursor, name, version, who, why, "approved")
        for old in _find(cursor, name, stage="champion"):
            _move(cursor, old, "archived", who, f"replaced by version {version}")
    _move(cursor, found, stage, who, why)
    return get(cursor, name, version)


def check_not_rejected(cursor: Cursor, name: str, version: int) -> None:
    """Do nothing unless the version's latest decision is a rejection.

    Raises:
        ConflictError: it is.
    """
    decisions = approvals(cursor, name, version)
    if decisions and decisions[-1].decision == "rejected":
        raise ConflictError(
            f"version {version} was rejected by {decisions[-1].who}: {decisions[-1].why}",
            where=name,
            fix="Approve it first, with the reason.",
        )


def stage_changes(cursor: Cursor, name: str, version: int | None) -> tuple[StageChange, ...]:
    """The history of stages, oldest first."""
    cursor.execute(
        "SELECT version, previous_stage, stage, who, why, at FROM stage_changes"
        " WHERE name = %(name)s AND (%(version)s IS NULL OR version = %(version)s) ORDER BY id",
        {"name": name, "version": version},
    )
    return tuple(StageChange(*row) for row in cursor.fetchall())


def _check_new(new: NewVersion) -> None:
    for text, what in ((new.name, "name"), (new.uri, "uri"), (new.who, "who")):
        required(text, what)
    if not is_digest(new.digest):
        raise InvalidRequestError(
            f"{new.digest!r} is not a package digest.", where=new.name, fix="Give sha256: and 64 hex digits."
        )
    if new.version is not None and not 0 < new.version < 2**31:
        raise InvalidRequestError(f"{new.version} can't be a version.", where=new.name, fix="Use 1, 2, 3 ...")


def _lock_model(cursor: Cursor, name: str) -> int:
    """Lock the model's row for the rest of the transaction and return its last version."""
    cursor.execute("INSERT INTO models (name) VALUES (%s) ON CONFLICT DO NOTHING", (name,))
    cursor.execute("SELECT last_version FROM models WHERE name = %s FOR UPDATE", (name,))
    row = cursor.fetchone()
    if row is None:
        raise ConflictError("the model was deleted meanwhile.", where=name, fix="Register again.")
    return int(row[0])


def _find(
    cursor: Cursor,
    name: str | None,
    *,
    version: int | None = None,
    digest: str | None = None,
    stage: str | None = None,
) -> tuple[ModelVersion, ...]:
    """The versions that match all that is given, newest first."""
    cursor.execute(_SELECT, {"name": name, "version": version, "digest": digest, "stage": stage})
    return tuple(ModelVersion(*row) for row in cursor.fetchall())


def _insert_lineage(cursor: Cursor, name: str, version: int, row: Lineage) -> None:
    if row.parent_version is not None:
        get(cursor, name, row.parent_version)
    cursor.execute(
        "INSERT INTO lineage (name, version, parent_version, lake_versions, kafka_offsets, code_commit, seed,"
        " search_space) VALUES (%s, %s, %s, %s::jsonb, %s::jsonb, %s, %s, %s::jsonb)",
        (
            name,
            version,
            row.parent_version,
            jsonb(row.lake_versions),
            jsonb(row.kafka_offsets),
            row.code_commit,
            row.seed,
            jsonb(row.search_space),
        ),
    )


def _move(cursor: Cursor, version: ModelVersion, stage: Stage, who: str, why: str) -> None:
    cursor.execute(
        "UPDATE model_versions SET stage = %s WHERE name = %s AND version = %s", (stage, version.name, version.version)
    )
    _log_stage(cursor, version.name, version.version, (version.stage, stage), who, why)


def _log_stage(cursor: Cursor, name: str, version: int, change: tuple[Stage | None, Stage], who: str, why: str) -> None:
    cursor.execute(
        "INSERT INTO stage_changes (name, version, previous_stage, stage, who, why) VALUES (%s, %s, %s, %s, %s, %s)",
        (name, version, *change, who, why),
    )


def _stage(text: str) -> str:
    if text not in STAGES:
        raise InvalidRequestError(f"stage {text!r} is unknown.", fix=f"Use one of {', '.join(STAGES)}.")
    return text
