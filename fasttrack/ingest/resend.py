"""Dead letters sent again, each once, however often and wherever that is interrupted.

What is sent is committed first (`intent`), then it is sent in one Kafka transaction, then that is committed (`done`).
Whoever finds an intent without an end asks Kafka whether its transaction was committed, and else makes it. The drain
owns the tables: here nothing is written but `replays`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from fasttrack.ingest.broker import Broker, Topic
from fasttrack.ingest.deadletters import Judge, Letter, Wanted
from fasttrack.ingest.fix import Fix
from fasttrack.ingest.outbox import Outgoing, opened, partition_of
from fasttrack.ingest.rounds import Shelf, Tally, rounds
from fasttrack.ingest.rowcheck import Rejection
from fasttrack.progress import note
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase


@dataclass
class Resent:
    """What a replay of dead letters did, or with `dry_run` would do.

    Attributes:
        matched: dead letters that were asked for.
        before: how many of them were replayed before.
        sent: how many were sent now; `mended` of them with the bytes that the fix gave.
        resumed: messages of an interrupted replay, now surely sent; not among the others.
        refused: those left, by stream and reason: ``stream``, ``reason``, ``detail`` and ``place`` of one, ``count``.
    """

    matched: int = 0
    before: int = 0
    sent: int = 0
    mended: int = 0
    resumed: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    dry_run: bool = False
    seconds: float = 0.0


def resend(
    usecase: UseCase, settings: Settings, wanted: Wanted, *, fix: Fix | None = None, dry_run: bool = False
) -> Resent:
    """Publish again those dead letters that the present contracts accept, or that `fix` mends.

    They go to their streams' topics, where the drain takes them like all other messages. The dead letters stay. A
    replay that was interrupted is finished first, whatever is wanted now.

    Args:
        usecase: whose.
        settings: needs `kafka`, `schema_registry` and `lake`.
        wanted: which; those that were replayed before are left out.
        fix: asked for a better value where the contract refuses the one that came.
        dry_run: only say what would be done.

    Raises:
        ConflictError: another replay of dead letters is at work.
        NotFoundError: nothing was drained yet, or a topic is missing.
        UnavailableError: broker or schema registry do not answer; run it again.
        StorageError: the lake can't be read or written; run it again.
    """
    began = time.monotonic()
    broker = Broker.at(settings)
    broker.greet()
    by_name = broker.require([usecase.topic(name) for name in usecase.streams])
    topics = {name: by_name[usecase.topic(name)] for name in usecase.streams}
    report, tally = Resent(dry_run=dry_run), Tally()
    sorter = _Sorter(Judge(usecase, settings), topics, fix, report)
    if dry_run:
        for found in rounds(Shelf(usecase, settings), wanted, tally):
            sorter.outgoing(found)
    else:
        with opened(usecase, settings, broker, topics) as outbox:
            report.resumed = outbox.resume()
            if report.resumed:
                note(f"An interrupted replay is finished: {report.resumed:,} messages are surely sent.")
            for found in rounds(Shelf(usecase, settings), wanted, tally):
                if ready := sorter.outgoing(found):
                    outbox.send(ready)
            outbox.appear()
    report.matched, report.before, report.refused = tally.matched, tally.before, sorter.refused()
    report.seconds = time.monotonic() - began
    return report


class _Sorter:
    """Tells what can be sent from what can't, and keeps count."""

    def __init__(self, judge: Judge, topics: dict[str, Topic], fix: Fix | None, report: Resent) -> None:
        self._judge, self._topics, self._fix, self._report = judge, topics, fix, report
        self._refused: dict[tuple[str, str], dict[str, Any]] = {}

    def outgoing(self, found: list[Letter]) -> list[Outgoing]:
        ready: list[Outgoing] = []
        for stream in dict.fromkeys(letter.stream for letter in found):
            mine = [letter for letter in found if letter.stream == stream]
            reasons = self._judge.refused(stream, [each.value for each in mine], [each.key for each in mine])
            mended = self._mend({at: mine[at] for at in reasons}, stream)
            for at, letter in enumerate(mine):
                verdict = mended.get(at, reasons.get(at))
                if isinstance(verdict, Rejection):
                    self._refuse(letter, verdict)
                else:
                    ready.append(self._made(letter, verdict))
        self._report.sent += len(ready)
        self._report.mended += sum(each.fixed for each in ready)
        return ready

    def _mend(self, broken: dict[int, Letter], stream: str) -> dict[int, tuple[bytes, bytes | None] | Rejection]:
        """What the fix makes of refused ones, which the contract judges again."""
        if self._fix is None:
            return {}
        found = {at: self._fix.mend(letter.value, letter.key) for at, letter in broken.items()}
        mended = {at: made for at, made in found.items() if not isinstance(made, Rejection)}
        again = self._judge.refused(stream, [v for v, _ in mended.values()], [k for _, k in mended.values()])
        for position, at in enumerate(mended):
            if position in again:
                found[at] = again[position]
        return found

    def _made(self, letter: Letter, mended: tuple[bytes, bytes | None] | None) -> Outgoing:
        value, key = (letter.value, letter.key) if mended is None else mended
        topic = self._topics[letter.stream]
        # Whoever sent it knows where messages of its key belong; only a new key, or topic, is placed as a replay does.
        kept = key == letter.key and letter.topic_id == topic.id
        partition = letter.partition if kept else partition_of(topic.partitions, key)
        origin = (letter.stream, letter.topic, letter.topic_id, letter.partition, letter.offset)
        fixed = mended is not None
        return Outgoing(*origin, topic.id, partition, None, key, value, fixed, self._judge.version(letter.stream))

    def _refuse(self, letter: Letter, why: Rejection) -> None:
        place = f"{letter.topic}/{letter.partition}/{letter.offset}"
        first = {"stream": letter.stream, "reason": why.reason, "detail": why.detail, "place": place, "count": 0}
        self._refused.setdefault((letter.stream, why.reason), first)["count"] += 1

    def refused(self) -> list[dict[str, Any]]:
        return sorted(self._refused.values(), key=lambda row: -row["count"])
