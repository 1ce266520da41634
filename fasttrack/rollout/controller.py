"""Deciding on rollouts, in the database: whoever calls first decides, all others find it done.

Every gateway calls this about once a second, so no controller of its own can die. If nobody does, or the database is
away, the challenger's lease ends (`rows.LEASE_SECONDS`) and it gets no more requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from psycopg2.extensions import cursor as Cursor

from fasttrack.errors import ConflictError
from fasttrack.registry import deployments, versions
from fasttrack.registry.records import Stage
from fasttrack.registry.values import jsonb
from fasttrack.rollout import rows
from fasttrack.rollout.counts import Window, total
from fasttrack.rollout.once import KINDS, once, room
from fasttrack.rollout.records import Decision, Rollout, Status
from fasttrack.rollout.verdict import SLOW_SHARE, Evidence, Verdict, judge, weigh, weigh_labels

#: The name under which decisions that nobody made are recorded.
WHO: Final = "rollout controller"
_GAP: Final = "decided_at < clock_timestamp() - interval '0.7 seconds'"
_WINDOWS: Final = 2_000
_TIMED: Final = 200
_UNPAIRED: Final = 1_000
_ENDS: Final[dict[Decision, Status]] = {"promote": "promoted", "roll_back": "rolled_back"}


def decide(cursor: Cursor) -> None:
    """Look at every rollout that runs and at which nobody else looks or has just looked."""
    for rollout in rows.find(cursor, f"status = 'running' AND {_GAP} ORDER BY usecase FOR UPDATE SKIP LOCKED", {}):
        _look(cursor, rollout)


def _look(cursor: Cursor, rollout: Rollout) -> None:
    deployed = deployments.current(cursor, rollout.usecase)
    if not deployed or deployed[0].version != rollout.champion:
        end(cursor, rollout, "abort", WHO, f"version {rollout.champion} is no longer the one that is served")
        return
    weighed = _weighed(cursor, rollout)
    cursor.execute("SELECT extract(epoch FROM clock_timestamp() - %s)::float8", (rollout.step_since,))
    (seconds,) = cursor.fetchone() or (0.0,)
    verdict = judge(weighed.plan, weighed.evidence, weighed.step, weighed.counted, seconds)
    if verdict.action == "roll_back":
        end(cursor, weighed, "roll_back", WHO, verdict.why)
        return
    if verdict.action == "promote":
        try:
            end(cursor, weighed, "promote", WHO, verdict.why)
        except ConflictError as error:
            # Somebody has rejected it meanwhile; raised before anything was written.
            end(cursor, weighed, "abort", WHO, str(error))
        return
    _go_on(cursor, weighed, verdict)
    rows.forget(cursor, rollout.id)


def _weighed(cursor: Cursor, rollout: Rollout) -> Rollout:
    """The rollout with all that came since the last look."""
    came, left = rows.waiting(cursor, rollout.id, _WINDOWS), room(rollout.counted, rollout.overall)
    windows = once(came, rollout.step, left, partial(rows.keep, cursor, rollout.id))
    seen = rollout.evidence
    for window in windows:
        found = weigh(rollout.plan, seen, window.step, window)
        # What was counted under an earlier step is no sign that this one is fine.
        seen = found if window.step == rollout.step else replace(found, fine=seen.fine)
    current = [window for window in windows if window.step == rollout.step]
    overall = total([rollout.overall, *windows], rollout.step)
    slow = rollout.slow_seconds
    if slow is None and sum(overall.champion.seconds) >= _TIMED:
        slow = overall.champion.quantile(1 - SLOW_SHARE)
    return replace(
        rollout,
        evidence=_with_labels(rollout, seen, rows.labelled(cursor, rollout)),
        counted=total([rollout.counted, *current], rollout.step),
        overall=overall,
        slow_seconds=slow,
    )


def _with_labels(rollout: Rollout, seen: Evidence, labelled: Sequence[tuple[int, float, bool]]) -> Evidence:
    """Pairs a champion's prediction with a challenger's, in the order in which their labels came."""
    scores: dict[str, list[float]] = {name: list(seen.unpaired.get(name, ())) for name in ("champion", "challenger")}
    for version, probability, positive in labelled:
        arm = "challenger" if version == rollout.challenger else "champion"
        scores[arm].append((probability - positive) ** 2)
    pairs = min(map(len, scores.values()))
    rises = [theirs - ours for theirs, ours in zip(scores["challenger"], scores["champion"], strict=False)]
    unpaired = {name: found[pairs:][:_UNPAIRED] for name, found in scores.items()}
    return replace(weigh_labels(rollout.plan, seen, rises) if rises else seen, unpaired=unpaired)


def _go_on(cursor: Cursor, rollout: Rollout, verdict: Verdict) -> None:
    step, evidence, counted = rollout.step, rollout.evidence, rollout.counted
    if verdict.action == "advance":
        rows.log(cursor, rollout.id, "advance", WHO, verdict.why, facts(rollout))
        rows.forget_keys(cursor, rollout.id, "seen")
        step, evidence, counted = step + 1, replace(evidence, fine={}, labels=0), Window(step + 1)
    cursor.execute(
        "UPDATE rollouts SET step = %s, evidence = %s::jsonb, counted = %s::jsonb, overall = %s::jsonb, why = %s,"
        " slow_seconds = %s, step_since = CASE WHEN %s THEN clock_timestamp() ELSE step_since END,"
        " decided_at = clock_timestamp(), lease_until = clock_timestamp() + make_interval(secs => %s) WHERE id = %s",
        (step, jsonb(evidence.as_json()), jsonb(counted.as_json()), jsonb(rollout.overall.as_json()), verdict.why,
         rollout.slow_seconds, step != rollout.step, rows.LEASE_SECONDS, rollout.id),
    )  # fmt: skip


def end(cursor: Cursor, rollout: Rollout, action: Decision, who: str, why: str) -> None:
    """End a rollout: promote its challenger, or leave the champion alone.

    Args:
        rollout: one that runs, locked by the caller.
        action: promote, roll_back or abort.
        who, why: for the record.

    Raises:
        ConflictError: somebody rejected the challenger.
    """
    status: Status = _ENDS.get(action, "aborted")
    name, challenger = rollout.usecase, rollout.challenger
    if action == "promote":
        target = rows.offered(cursor, name, challenger)
        versions.set_stage(cursor, name, challenger, "champion", who, why)
        urls = (target.transformer_url, target.predictor_url, target.explainer_url)
        deployments.deploy(cursor, name, challenger, target.signature, target.usecase_document, urls)
    else:
        stage: Stage = "archived" if action == "roll_back" else "candidate"
        versions.set_stage(cursor, name, challenger, stage, who, why)
    rows.log(cursor, rollout.id, action, who, why, facts(rollout))
    documents = (rollout.evidence, rollout.counted, rollout.overall)
    cursor.execute(
        "UPDATE rollouts SET status = %s, why = %s, ended_at = clock_timestamp(), decided_at = clock_timestamp(),"
        " evidence = %s::jsonb, counted = %s::jsonb, overall = %s::jsonb WHERE id = %s",
        (status, why, *(jsonb(each.as_json()) for each in documents), rollout.id),
    )
    rows.forget_keys(cursor, rollout.id, *KINDS)
    cursor.execute("DELETE FROM rollout_windows WHERE rollout = %s", (rollout.id,))


def locked(cursor: Cursor, usecase: str) -> Rollout:
    """The use case's rollout that runs, for the rest of the transaction nobody else's to decide on.

    Raises:
        ConflictError: none runs.
    """
    found = rows.find(cursor, "status = 'running' AND usecase = %(usecase)s FOR UPDATE", {"usecase": usecase})
    if not found:
        raise ConflictError("no rollout runs.", where=usecase, fix=f"See `fasttrack rollout status {usecase}`.")
    return found[0]


def facts(rollout: Rollout) -> dict[str, Any]:
    """What a decision was based on."""
    return {
        "champion": rollout.champion,
        "challenger": rollout.challenger,
        "step": rollout.step,
        "weight": rollout.plan.weight(rollout.step),
        "evidence": rollout.evidence.as_json(),
        "counted": rollout.counted.as_json(),
        "overall": rollout.overall.as_json(),
    }
