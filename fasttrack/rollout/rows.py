"""SQL of rollouts. Functions take a cursor in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from fasttrack.errors import NotFoundError
from fasttrack.registry.records import Deployment
from fasttrack.registry.values import jsonb, named_rows, required
from fasttrack.rollout.counts import Window, window
from fasttrack.rollout.plan import Plan
from fasttrack.rollout.records import Decision, Event, Rollout, Running
from fasttrack.rollout.verdict import Evidence

#: The challenger gets requests for so long after the last look at it.
LEASE_SECONDS: Final = 4.0
_COLUMNS: Final = """
id, usecase, champion, challenger, plan, status, step, lease_until > clock_timestamp() AND status = 'running' AS live,
slow_seconds, evidence, counted, overall, why, started_at, step_since, ended_at"""
_OFFER: Final = """
INSERT INTO challengers (usecase, version, signature, usecase_document, transformer_url, predictor_url, explainer_url)
VALUES (%s, %s, %s::jsonb, %s::jsonb, %s, %s, %s)
ON CONFLICT (usecase, version) DO UPDATE SET signature = excluded.signature,
    usecase_document = excluded.usecase_document, transformer_url = excluded.transformer_url,
    predictor_url = excluded.predictor_url, explainer_url = excluded.explainer_url, updated_at = clock_timestamp()
"""
_CHALLENGER: Final = """
SELECT c.usecase, c.version, v.digest, v.uri, c.signature, c.usecase_document,
       c.transformer_url, c.predictor_url, c.explainer_url, c.updated_at
FROM challengers c JOIN model_versions v ON v.name = c.usecase AND v.version = c.version
WHERE c.usecase = %s AND c.version = %s
"""
_RUNNING: Final = """
SELECT r.id, r.plan, r.step, r.slow_seconds, extract(epoch FROM r.lease_until - clock_timestamp())::float8,
       c.usecase, c.version, v.digest, v.uri, c.signature, c.usecase_document,
       c.transformer_url, c.predictor_url, c.explainer_url, c.updated_at
FROM rollouts r JOIN challengers c ON c.usecase = r.usecase AND c.version = r.challenger
JOIN model_versions v ON v.name = c.usecase AND v.version = c.version
WHERE r.status = 'running' ORDER BY r.usecase
"""
_APPEND: Final = """
INSERT INTO rollout_windows (rollout, gateway, number, content, firsts)
SELECT id::uuid, gateway, number, content::jsonb, firsts::jsonb
FROM (VALUES %s) AS new (id, gateway, number, content, firsts)
WHERE EXISTS (SELECT 1 FROM rollouts WHERE rollouts.id = new.id::uuid AND status = 'running') ON CONFLICT DO NOTHING
"""
# Which keys they were has done its work once the window is weighed; the counts stay, as the window may come again.
_WEIGHED: Final = """
UPDATE rollout_windows w SET weighed = true, firsts = NULL
FROM (SELECT * FROM rollout_windows WHERE rollout = %s AND NOT weighed ORDER BY at LIMIT %s) AS old
WHERE w.rollout = old.rollout AND w.gateway = old.gateway AND w.number = old.number
RETURNING old.at, old.content, old.firsts
"""
_KEEP: Final = """
INSERT INTO rollout_keys (rollout, kind, position) SELECT %s, %s, unnest(%s::float8[])
ON CONFLICT DO NOTHING RETURNING position
"""
# The first prediction that an entity got in the rollout is the one that its outcome judges.
_LABELLED: Final = """
SELECT DISTINCT ON (o.entity) p.version, p.probability, o.positive
FROM outcomes o JOIN predictions p ON p.usecase = o.usecase AND p.entity = o.entity
WHERE o.usecase = %(usecase)s AND o.tx >= %(since)s AND o.tx < %(until)s AND p.at >= %(started)s
  AND p.version IN (%(champion)s, %(challenger)s)
ORDER BY o.entity, p.at
"""


def offer(cursor: Cursor, usecase: str, version: int, documents: tuple[Any, Any], urls: tuple[str, str, str]) -> None:
    """Say where a version is served that may become a challenger.

    Args:
        documents: its signature and its use case.
        urls: of transformer, predictor, explainer.
    """
    for url in urls:
        required(url, "url")
    cursor.execute(_OFFER, (usecase, version, *map(jsonb, documents), *urls))


def offered(cursor: Cursor, usecase: str, version: int) -> Deployment:
    """Where a challenger is served.

    Raises:
        NotFoundError: nobody said so.
    """
    cursor.execute(_CHALLENGER, (usecase, version))
    row = cursor.fetchone()
    if row is None:
        raise NotFoundError(
            f"version {version} of {usecase!r} is not served beside the champion.", where=usecase,
            fix=f"Run `fasttrack rollout start {usecase} {version}`, which starts its servers.",
        )  # fmt: skip
    return Deployment(*row)


def insert(cursor: Cursor, id: UUID, usecase: str, versions: tuple[int, int], plan: Plan) -> None:
    """A rollout that begins now; `versions` are champion and challenger.

    Raises:
        ConflictError: the use case has one that runs.
    """
    cursor.execute(
        "INSERT INTO rollouts (id, usecase, champion, challenger, plan, lease_until)"
        " VALUES (%s, %s, %s, %s, %s::jsonb, clock_timestamp() + make_interval(secs => %s))",
        (id, usecase, *versions, plan.model_dump_json(), LEASE_SECONDS),
    )


def running(cursor: Cursor) -> tuple[Running, ...]:
    """What gateways need of all rollouts that run."""
    cursor.execute(_RUNNING)
    return tuple(
        Running(id, Plan.model_validate(plan), step, slow, lease, Deployment(*target))
        for id, plan, step, slow, lease, *target in cursor.fetchall()
    )


def find(cursor: Cursor, condition: str, values: Mapping[str, Any]) -> list[Rollout]:
    """The rollouts that meet a condition of ours (SQL after WHERE), without their events."""
    cursor.execute(f"SELECT {_COLUMNS} FROM rollouts WHERE {condition}", values)  # noqa: S608 - our own words only
    return [_rollout(row) for row in named_rows(cursor)]


def _rollout(row: dict[str, Any]) -> Rollout:
    step = row["step"]
    counts = {name: window(row[name]) if row[name] else Window(step) for name in ("counted", "overall")}
    return Rollout(
        **{**row, **counts, "plan": Plan.model_validate(row["plan"]), "evidence": Evidence(**row["evidence"])}
    )


def events(cursor: Cursor, id: UUID) -> tuple[Event, ...]:
    """A rollout's decisions, oldest first."""
    cursor.execute("SELECT at, action, who, why, facts FROM rollout_events WHERE rollout = %s ORDER BY id", (id,))
    return tuple(Event(*row) for row in cursor.fetchall())


def log(cursor: Cursor, id: UUID, action: Decision, who: str, why: str, facts: Mapping[str, Any]) -> None:
    """Record a decision."""
    cursor.execute(
        "INSERT INTO rollout_events (rollout, action, who, why, facts) VALUES (%s, %s, %s, %s, %s::jsonb)",
        (id, action, required(who, "who"), required(why, "why"), jsonb(facts)),
    )


def append(cursor: Cursor, gateway: str, counted: Sequence[tuple[UUID, int, Window]]) -> None:
    """Keep windows; one that is there already, or whose rollout has ended, is left out."""
    if counted:
        rows = [
            (str(id), gateway, number, jsonb(each.as_json()), jsonb(each.firsts or None))
            for id, number, each in counted
        ]
        execute_values(cursor, _APPEND, rows)


def waiting(cursor: Cursor, id: UUID, most: int) -> list[Window]:
    """Windows that were not weighed yet, in the order in which they came; they count as weighed from now on."""
    cursor.execute(_WEIGHED, (id, most))
    found = sorted(cursor.fetchall(), key=lambda row: row[0])
    return [window(content, firsts) for _, content, firsts in found]


def keep(cursor: Cursor, id: UUID, kind: str, positions: Sequence[float]) -> set[float]:
    """Keep keys as counted (`once.Keep`); only for whoever has the rollout's row for itself."""
    cursor.execute(_KEEP, (id, kind, list(positions)))
    return {position for (position,) in cursor.fetchall()}


def forget_keys(cursor: Cursor, id: UUID, *kinds: str) -> None:
    """Remove the keys of these kinds: they may count again."""
    cursor.execute("DELETE FROM rollout_keys WHERE rollout = %s AND kind = ANY(%s)", (id, list(kinds)))


def forget(cursor: Cursor, id: UUID) -> None:
    """Remove windows whose gateways can't send them again any more."""
    cursor.execute(
        "DELETE FROM rollout_windows WHERE rollout = %s AND weighed AND at < clock_timestamp() - interval '10 minutes'",
        (id,),
    )


def labelled(cursor: Cursor, rollout: Rollout) -> list[tuple[int, float, bool]]:
    """Version, probability and truth of what became known since the last call; each once."""
    # Nothing that is committed later can have a smaller number than the oldest transaction that is under way.
    cursor.execute(
        "SELECT labelled_to, pg_snapshot_xmin(pg_current_snapshot())::text::bigint FROM rollouts WHERE id = %s",
        (rollout.id,),
    )
    since, until = cursor.fetchone() or (0, 0)
    if since >= until:
        return []
    facts = {"usecase": rollout.usecase, "since": since, "until": until, "started": rollout.started_at,
             "champion": rollout.champion, "challenger": rollout.challenger}  # fmt: skip
    cursor.execute(_LABELLED, facts)
    found: list[tuple[int, float, bool]] = cursor.fetchall()
    cursor.execute("UPDATE rollouts SET labelled_to = %s WHERE id = %s", (until, rollout.id))
    return found


def add_outcomes(cursor: Cursor, usecase: str, rows: Sequence[tuple[Mapping[str, Any], bool]]) -> int:
    """Keep what became of entities; the first word on an entity counts. Returns how many were new."""
    values = [(usecase, jsonb(entity), positive) for entity, positive in rows]
    if not values:
        return 0
    statement = "INSERT INTO outcomes (usecase, entity, positive) VALUES %s ON CONFLICT DO NOTHING RETURNING 1"
    return len(execute_values(cursor, statement, values, "(%s, %s::jsonb, %s)", page_size=1000, fetch=True))
