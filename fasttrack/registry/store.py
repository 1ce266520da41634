"""The registry: versions of models, their stages, approvals and lineage, deployments, and the gateway's audit rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fasttrack.registry import audit, deployments, migrations, package, sealing, versions
from fasttrack.registry.checkpoints import Checkpoint
from fasttrack.registry.connections import Connections
from fasttrack.registry.records import (
    Approval,
    AuditRow,
    Decision,
    Deployment,
    Lineage,
    ModelVersion,
    PredictionRow,
    Stage,
    StageChange,
)


class Registry:
    """The registry in a PostgreSQL database. Threads may share it; each method is one transaction.

    Every method raises UnavailableError if the database does not answer (it connects anew by itself once the
    database is back), StorageError if its disk is full, ConflictError if another transaction was in the way, and
    ConfigurationError if `migrate` was never run.

    Args:
        dsn: libpq URL, such as that of `Settings.postgres`.
        pool_size: the most connections at a time.
        patience: seconds for which an unreachable database is tried again before UnavailableError.
    """

    def __init__(self, dsn: str, *, pool_size: int = 4, patience: float = 3.0) -> None:
        self._connections = Connections(dsn, pool_size, patience)

    def migrate(self) -> tuple[str, ...]:
        """Bring the tables up to date and return the migrations that were applied; processes take turns.

        Raises:
            IntegrityError: a migration was changed after it had been applied.
            ConfigurationError: the database is ahead of this version.
        """
        with self._connections.transaction() as cursor:
            return migrations.apply(cursor, migrations.available())

    def ping(self) -> None:
        """Return if the database answers and its tables are there."""
        with self._connections.transaction() as cursor:
            cursor.execute("SELECT 1 FROM model_versions LIMIT 1")

    def close(self) -> None:
        """Close the idle connections."""
        self._connections.close()

    def register_model(
        self,
        name: str,
        uri: str,
        version: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        digest: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        lineage: Lineage | None = None,
        who: str = "pipeline",
    ) -> ModelVersion:
        """Register a package as a version, in stage candidate.

        A package that the model already has, by digest, is not registered again: its version is returned as it is.

        Args:
            name: the model's name, the use case's.
            uri: where the package lies.
            version: the number to give it; by default the next one.
            digest: the package's digest; by default it is read from the folder at `uri`.
            who: recorded in the history of stages.

        Raises:
            ConflictError: `version` belongs to another package, or the package has another version.
            NotFoundError: the parent version in `lineage`, or the folder at `uri`, does not exist.
            InvalidRequestError: an argument is malformed.
        """
        found = digest if digest is not None else package.digest_at(uri)
        row = versions.NewVersion(name, uri, version, dict(metadata or {}), found, dict(metrics or {}), lineage, who)
        with self._connections.transaction() as cursor:
            return versions.register(cursor, row)

    def get(self, name: str, selector: int | Stage = "champion") -> ModelVersion:
        """A model's version by number, or the newest one in a stage.

        Raises:
            NotFoundError: there is none.
        """
        with self._connections.transaction() as cursor:
            return versions.get(cursor, name, selector)

    def list(self, name: str | None = None) -> tuple[ModelVersion, ...]:
        """A model's versions (without `name`: those of all models), newest first."""
        with self._connections.transaction() as cursor:
            return versions.list_(cursor, name)

    def lineage(self, name: str, version: int) -> Lineage:
        """What a version came from.

        Raises:
            NotFoundError: there is no such version, or it was registered without lineage.
        """
        with self._connections.transaction() as cursor:
            return versions.lineage(cursor, name, version)

    def approve(self, name: str, version: int, *, who: str, why: str, decision: Decision = "approved") -> Approval:
        """Record a decision on a version.

        Raises:
            NotFoundError: there is no such version.
            InvalidRequestError: `who` or `why` is empty, or the decision is unknown.
        """
        with self._connections.transaction() as cursor:
            return versions.approve(cursor, name, version, who, why, decision)

    def approvals(self, name: str, version: int) -> tuple[Approval, ...]:
        """The decisions on a version, oldest first.

        Raises:
            NotFoundError: there is no such version.
        """
        with self._connections.transaction() as cursor:
            return versions.approvals(cursor, name, version)

    def set_stage(self, name: str, version: int, stage: Stage, who: str, why: str) -> ModelVersion:
        """Move a version to a stage. A new champion archives the old one, and its making counts as an approval.

        Raises:
            NotFoundError: there is no such version.
            ConflictError: the version's latest decision is a rejection, so it can't become champion.
            InvalidRequestError: `who` or `why` is empty, or the stage is unknown.
        """
        with self._connections.transaction() as cursor:
            return versions.set_stage(cursor, name, version, stage, who, why)

    def stage_changes(self, name: str, version: int | None = None) -> tuple[StageChange, ...]:
        """The history of a model's stages, or of one version's, oldest first."""
        with self._connections.transaction() as cursor:
            return versions.stage_changes(cursor, name, version)

    def deploy(
        self,
        usecase: str,
        version: int,
        *,
        signature: Mapping[str, Any],
        usecase_document: Mapping[str, Any],
        transformer_url: str,
        predictor_url: str,
        explainer_url: str,
    ) -> Deployment:
        """Say what answers for a use case from now on; readers see the old deployment or the new one, never a mix.

        Raises:
            NotFoundError: the model has no such version.
        """
        urls = (transformer_url, predictor_url, explainer_url)
        with self._connections.transaction() as cursor:
            return deployments.deploy(cursor, usecase, version, signature, usecase_document, urls)

    def undeploy(self, usecase: str) -> bool:
        """Take a use case out of service; False if it was not in service."""
        with self._connections.transaction() as cursor:
            return deployments.undeploy(cursor, usecase)

    def deployment(self, usecase: str) -> Deployment | None:
        """What answers for a use case, or None."""
        with self._connections.transaction() as cursor:
            found = deployments.current(cursor, usecase)
        return found[0] if found else None

    def deployments(self) -> tuple[Deployment, ...]:
        """What is deployed, by use case."""
        with self._connections.transaction() as cursor:
            return deployments.current(cursor, None)

    def append_audit(self, rows: Sequence[AuditRow]) -> int:
        """Append audit rows in one transaction and return how many were new; sending a batch twice is harmless."""
        with self._connections.transaction() as cursor:
            return audit.append_audit(cursor, rows)

    def audit(self, trace_id: str) -> tuple[AuditRow, ...]:
        """The audit rows of a trace, oldest first."""
        with self._connections.transaction() as cursor:
            return audit.audit_rows(cursor, trace_id)

    def seal_audit(self, key: Ed25519PrivateKey) -> Checkpoint | None:
        """Sign checkpoints until no audit row waits; the last one, or None if none waited or somebody else seals.

        Raises:
            IntegrityError: the last checkpoint can't be gone on from.
        """
        last = None
        while True:
            with self._connections.transaction() as cursor:
                made = sealing.seal(cursor, key)
            if made is None:
                return last
            last = made

    def audit_note(self) -> str | None:
        """The audit log's last checkpoint as a signed note; None before the first."""
        with self._connections.transaction() as cursor:
            return sealing.newest_note(cursor)

    def verify_audit(self, key: Ed25519PublicKey, kept: Sequence[str] = ()) -> sealing.Verdict:
        """Compare the audit log with its checkpoints and with notes that were kept elsewhere."""
        with self._connections.transaction() as cursor:
            return sealing.verify(cursor, key, kept)

    def append_predictions(self, rows: Sequence[PredictionRow]) -> int:
        """Append predictions in one transaction and return how many were new; sending a batch twice is harmless."""
        with self._connections.transaction() as cursor:
            return audit.append_predictions(cursor, rows)

    def predictions(self, usecase: str, limit: int = 100) -> tuple[PredictionRow, ...]:
        """The newest predictions of a use case, newest first."""
        with self._connections.transaction() as cursor:
            return audit.predictions(cursor, usecase, limit)
