"""`fasttrack replay | drain | reconcile`: events into Kafka, into the lake, and the proof that none is missing."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fasttrack.cli.output import default_usecase, options, settings, show, table
from fasttrack.cli.parameters import UseCaseFile
from fasttrack.errors import ConfigurationError
from fasttrack.progress import note
from fasttrack.usecase import load

if TYPE_CHECKING:
    from fasttrack.ingest.reconcile import Reconciliation

_COLUMNS = [
    *(
        "stream",
        "produced",
        "landed",
        "duplicates",
        "dead letters",
        "missing",
        "waiting",
        "repeated",
        "deleted",
        "holes",
        "replayed",
    ),
    "balanced",
]


class Until(Enum):
    """When a drain ends."""

    END = "end"
    FOREVER = "forever"


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (replay, drain, reconcile):
        app.command()(command)


def replay(
    context: typer.Context,
    usecase: UseCaseFile = None,
    sample: Annotated[float, typer.Option(help="Share of the entities, in (0, 1].", min=0.0001, max=1)] = 1.0,
    rate: Annotated[float | None, typer.Option(help="Messages a second; default: as fast as possible.")] = None,
    seed: Annotated[int | None, typer.Option(help="Overrides the use case's seed.")] = None,
) -> None:
    """Publish the history to Kafka in event-time order, with the use case's duplicates, disorder and damage."""
    from fasttrack.ingest.replay import replay as publish

    report = publish(load(usecase or default_usecase()), settings(context), sample=sample, rate=rate, seed=seed)
    rows = [[name, s.events, s.duplicates, s.malformed, s.produced] for name, s in report.streams.items()]
    title = "Nothing new to send: this replay is in the topics already." if report.reused else ""
    show(context, asdict(report), table(title, ["stream", "events", "duplicates", "malformed", "produced"], rows))


def drain(
    context: typer.Context,
    usecase: UseCaseFile = None,
    workers: Annotated[int, typer.Option(help="Consumers in the group.", min=1)] = 2,
    until: Annotated[Until, typer.Option(help="The end seen at the start, or for ever (SIGTERM, Ctrl-C).")] = Until.END,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve Prometheus metrics here; 0: any free port.", min=0, max=65535)
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Where they are served.")] = "127.0.0.1",
) -> None:
    """Bring every event of the topics into the lake, exactly once."""
    from fasttrack.ingest.drain import drain as land

    metrics = None if metrics_port is None else (metrics_host, metrics_port)
    case = load(usecase or default_usecase())
    report = land(case, settings(context), workers=workers, until=until.value, metrics=metrics)
    rows = [
        [name, s.events, s.landed, s.duplicates, s.dead_letters, s.late, s.watermark]
        for name, s in report.streams.items()
    ]
    title = f"{report.seconds:.1f} s with {report.workers} workers"
    columns = ["stream", "events", "landed", "duplicates", "dead letters", "late", "watermark"]
    show(context, asdict(report), table(title, columns, rows))


def reconcile(
    context: typer.Context,
    usecase: UseCaseFile = None,
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
    start: Annotated[
        list[str] | None, typer.Option("--from", metavar="PARTITION:OFFSET", help="From here on; needs --stream.")
    ] = None,
    offsets: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="TOPIC:PARTITION:FIRST-LAST", help="Only these offsets, both ends included."),
    ] = None,
) -> None:
    """Prove, offset by offset, that produced = landed + duplicates + dead-lettered."""
    from fasttrack.ingest.reconcile import DELETED_FIX
    from fasttrack.ingest.reconcile import reconcile as prove
    from fasttrack.ingest.spans import parse_from, parse_range

    if start and stream is None:
        raise ConfigurationError("of which stream?", where="--from", fix="Give --stream too.")
    stretches = [*parse_from(start or [], stream or ""), *parse_range(offsets or [])]
    case = load(usecase or default_usecase())
    found = prove(case, settings(context), [] if stream is None else [stream], stretches)
    show(context, {**asdict(found), "balanced": found.balanced}, table("", _COLUMNS, _rows(found)))
    if not options(context).json:
        gone = "deleted by Kafka before the lake had them"
        for kind, faults in (("missing", found.gaps), ("recorded twice", found.repeats), (gone, found.deleted)):
            for fault in faults:
                note(f"{fault.topic}, partition {fault.partition}, offsets {fault.first} to {fault.last}: {kind}")
        if found.total.deleted:
            note(DELETED_FIX)
        if found.total.waiting:
            note(f"{found.total.waiting:,} messages wait: `fasttrack drain` has not come to them yet")
    if not found.balanced:
        raise typer.Exit(5)


def _rows(found: Reconciliation) -> list[list[Any]]:
    replayed = {name: replays.sent for name, replays in found.replays.items()}
    replayed["total"] = sum(replayed.values())
    return [
        [name, c.produced, c.landed, c.duplicates, c.dead_lettered, c.missing, c.waiting, c.repeated,
         c.deleted, c.holes, replayed[name], c.balanced]
        for name, c in [*found.streams.items(), ("total", found.total)]
    ]  # fmt: skip
