"""Rollouts in the registry's database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

from psycopg2.extensions import cursor as Cursor

from fasttrack.errors import ConflictError, NotFoundError
from fasttrack.registry import deployments, versions
from fasttrack.registry.connections import Connections
from fasttrack.rollout import controller, rows
from fasttrack.rollout.compatible import check_compatible
from fasttrack.rollout.counts import Window
from fasttrack.rollout.plan import Plan
from fasttrack.rollout.records import Decision, Rollout, Running

#: A little more than a lease: who decides spends milliseconds between statements.
_HUNG = "5s"


class Rollouts:
    """Starts, decides on and ends rollouts. Threads may share it; each method raises as `Registry`'s do.

    Args:
        dsn, pool_size, patience: as of `fasttrack.registry.store.Registry`.
    """

    def __init__(self, dsn: str, *, pool_size: int = 2, patience: float = 3.0) -> None:
        self._connections = Connections(dsn, pool_size, patience)

    def close(self) -> None:
        """Close the idle connections."""
        self._connections.close()

    def offer(
        self, usecase: str, version: int, *, signature: Mapping[str, Any], usecase_document: Mapping[str, Any],
        transformer_url: str, predictor_url: str, explainer_url: str,
    ) -> None:  # fmt: skip
        """Say where a version is served beside the champion, so that a rollout can send it requests.

        Raises:
            NotFoundError: there is no such version.
        """
        with self._connections.transaction() as cursor:
            versions.get(cursor, usecase, version)
            urls = (transformer_url, predictor_url, explainer_url)
            rows.offer(cursor, usecase, version, (signature, usecase_document), urls)

    def start(self, usecase: str, version: int, plan: Plan, *, who: str, why: str) -> Rollout:
        """Begin a rollout of a version that was offered.

        Raises:
            NotFoundError: the use case is not served, or the version is not offered.
            ConflictError: one runs already; the version is the champion, was rejected, or takes other requests.
        """
        with self._connections.transaction() as cursor:
            deployed = deployments.current(cursor, usecase)
            if not deployed:
                raise NotFoundError("the use case is not served.", where=usecase, fix="Publish a first version.")
            champion, target = deployed[0], rows.offered(cursor, usecase, version)
            self._check(cursor, usecase, version, champion.version)
            check_compatible(usecase, champion.signature, target.signature)
            id = uuid4()
            rows.insert(cursor, id, usecase, (champion.version, version), plan)
            versions.set_stage(cursor, usecase, version, "challenger", who, why)
            facts = controller.facts(self._one(cursor, id))
            rows.log(cursor, id, "start", who, why, {**facts, "plan": plan.model_dump()})
            return self._one(cursor, id)

    def _check(self, cursor: Cursor, usecase: str, version: int, champion: int) -> None:
        if version == champion:
            raise ConflictError(f"version {version} is served already.", where=usecase, fix="Name another version.")
        versions.check_not_rejected(cursor, usecase, version)
        if rows.find(cursor, "status = 'running' AND usecase = %(usecase)s", {"usecase": usecase}):
            raise ConflictError(
                "a rollout runs already.", where=usecase, fix=f"End it: `fasttrack rollout abort {usecase}`."
            )

    def exchange(self, gateway: str, counted: Sequence[tuple[UUID, int, Window]]) -> tuple[Running, ...]:
        """A gateway's turn, once a second: hand in counts, decide what is to be decided, learn what runs.

        Args:
            gateway: its name, another for each process.
            counted: rollout, a number that is new for each window, and the window; the same again does no harm.
        """
        with self._connections.transaction() as cursor:
            # Most of the time nothing runs, and this is all that it costs.
            if not rows.running(cursor):
                return ()
            rows.append(cursor, gateway, counted)
        with self._connections.transaction() as cursor:
            # A gateway whose host is gone would keep the rollout locked until TCP gives it up; nobody could end it.
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = %s", (_HUNG,))
            controller.decide(cursor)
        with self._connections.transaction() as cursor:
            return rows.running(cursor)

    def promote(self, usecase: str, *, who: str, why: str) -> Rollout:
        """Make the challenger of the rollout that runs the champion, whatever the evidence says.

        Raises:
            ConflictError: none runs, or somebody rejected the version.
        """
        return self._end(usecase, "promote", who, why)

    def abort(self, usecase: str, *, who: str, why: str) -> Rollout:
        """End the rollout that runs; the champion stays.

        Raises:
            ConflictError: none runs.
        """
        return self._end(usecase, "abort", who, why)

    def newest(self, usecase: str) -> Rollout:
        """The use case's newest rollout with its decisions.

        Raises:
            NotFoundError: it never had one.
        """
        with self._connections.transaction() as cursor:
            found = rows.find(cursor, "usecase = %(usecase)s ORDER BY started_at DESC LIMIT 1", {"usecase": usecase})
            if not found:
                raise NotFoundError(
                    "there was no rollout yet.", where=usecase, fix="See `fasttrack rollout start --help`."
                )
            return self._one(cursor, found[0].id)

    def add_outcomes(self, usecase: str, outcomes: Sequence[tuple[Mapping[str, Any], bool]]) -> int:
        """Keep what became of entities: their keys, and whether the label was positive. Returns how many were new.

        Raises:
            InvalidRequestError: an entity's keys are longer than 2,000 bytes.
        """
        with self._connections.transaction() as cursor:
            return rows.add_outcomes(cursor, usecase, outcomes)

    def _end(self, usecase: str, action: Decision, who: str, why: str) -> Rollout:
        with self._connections.transaction() as cursor:
            rollout = controller.locked(cursor, usecase)
            controller.end(cursor, rollout, action, who, why)
            return self._one(cursor, rollout.id)

    def _one(self, cursor: Cursor, id: UUID) -> Rollout:
        (found,) = rows.find(cursor, "id = %(id)s", {"id": id})
        return replace(found, events=rows.events(cursor, id))
