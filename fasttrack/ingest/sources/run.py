"""`fasttrack ingest`: sources into their topics, each record once, a thread a source."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from fasttrack.errors import FastTrackError, UseCaseError
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.sources.report import SourceReport
from fasttrack.ingest.sources.session import Session, Until
from fasttrack.progress import note, track
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from fasttrack.usecase.spec import suggestion

if TYPE_CHECKING:
    from fasttrack.ingest.sources.metrics import Metrics

_WAIT_SECONDS = 0.2


@dataclass
class IngestReport:
    """The outcome.

    Attributes:
        sources: by source.
        seconds: how long it took.
        complete: every source was read to its end, and nothing was broken.
        interrupted: Ctrl-C ended it.
    """

    sources: dict[str, SourceReport] = field(default_factory=dict)
    seconds: float = 0.0
    complete: bool = False
    interrupted: bool = False


def ingest(
    usecase: UseCase,
    settings: Settings,
    names: Sequence[str] = (),
    *,
    until: Until = "forever",
    on_progress: Callable[[int], None] | None = None,
    metrics: Metrics | None = None,
    stop: threading.Event | None = None,
) -> IngestReport:
    """Read sources and publish their records to the streams' topics.

    Topics are created and schemas registered as needed. Each source goes on where it stopped, whatever ended it; its
    records are in the topic once each, in the source's order within a key. SIGTERM or Ctrl-C: what was sent is
    confirmed and recorded, then it returns; a second one ends it at once, and nothing is lost then either.

    Args:
        usecase: whose sources.
        settings: needs `kafka` and `schema_registry`.
        names: which; default: all that are read (webhooks are not).
        until: ``end``: what the sources hold now; ``forever``: until a signal.
        on_progress: called with the number of records just dealt with; default: a progress bar.
        metrics: where to count, if anywhere.
        stop: set to finish, as a signal does.

    Raises:
        UseCaseError: there is no such source, or none at all.
        UnavailableError: the broker isn't there, or (until the end) something has not answered for a minute.
        RateLimitError: until the end: a server has asked to come back later for a minute, and does so still.
        FastTrackError: a source failed in a way that waiting doesn't mend; the others were stopped (until the end:
            finished) before.
    """
    began = time.monotonic()
    chosen = _choose(usecase, names)
    Broker.at(settings).greet()
    stop, report = stop or threading.Event(), IngestReport()
    failures: list[BaseException] = []
    with track("Ingesting", None, "records") as bar, _signals(stop) as received:
        advance = on_progress or bar.advance
        sessions = {name: Session(usecase, settings, name, until, stop, advance, metrics) for name in chosen}
        threads = [
            threading.Thread(
                target=_thread, args=(name, session, failures, stop, until), name=f"source-{name}", daemon=True
            )
            for name, session in sessions.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                # Short waits, so that signals are seen soon.
                thread.join(_WAIT_SECONDS)
        report.interrupted = signal.SIGINT in received
    report.sources = {name: session.report for name, session in sessions.items()}
    report.complete = not failures and all(r.complete and not r.broken for r in report.sources.values())
    report.seconds = time.monotonic() - began
    if failures:
        raise failures[0]
    return report


def _choose(usecase: UseCase, names: Sequence[str]) -> list[str]:
    read = [name for name, source in usecase.sources.items() if source.kind != "webhook"]
    for name in names:
        if name not in usecase.sources:
            raise UseCaseError(f"there is no source {name!r}; {suggestion(name, usecase.sources)}", where=usecase.name)
        if name not in read:
            raise UseCaseError(
                "a webhook isn't read: others send to it.", where=f"source {name}", fix="The gateway takes it in."
            )
    chosen = list(dict.fromkeys(names)) or read
    if not chosen:
        raise UseCaseError("has no source to read.", where=usecase.name, fix="Declare some under `sources`.")
    for name in chosen:
        if ":" in name:
            raise UseCaseError("has a colon in its name.", where=f"source {name!r}", fix="Rename it.")
    return chosen


def _thread(name: str, session: Session, failures: list[BaseException], stop: threading.Event, until: Until) -> None:
    try:
        session.run()
    except BaseException as error:
        failures.append(error)
        if not isinstance(error, FastTrackError):
            # Errors of ours say where they come from.
            note(f"source {name}: ended by what nobody expected: {type(error).__name__}")
        if until == "forever":
            # Half of the sources running looks like all of them running: rather none, and whoever watches is told.
            stop.set()


@contextmanager
def _signals(stop: threading.Event) -> Iterator[list[int]]:
    """Set `stop` on the first SIGTERM or Ctrl-C, and let a second one do what it did before."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous: dict[int, Any] = {}

    def restore() -> None:
        while previous:
            signal.signal(*previous.popitem())

    def asked(number: int, _: FrameType | None) -> None:
        received.append(number)
        stop.set()
        restore()

    for number in (signal.SIGTERM, signal.SIGINT):
        previous[number] = signal.signal(number, asked)
    try:
        yield received
    finally:
        restore()
