"""`fasttrack replay | drain | reconcile`: events into Kafka, into the lake, and the proof that none is missing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from fasttrack.cli.output import default_usecase, settings, show, table
from fasttrack.cli.parameters import UseCaseFile
from fasttrack.usecase import load


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
) -> None:
    """Bring every event of the topics into the lake, exactly once, up to the end seen at the start."""
    from fasttrack.ingest.drain import drain as land

    report = land(load(usecase or default_usecase()), settings(context), workers=workers)
    rows = [[name, s.events, s.landed, s.duplicates, s.dead_letters] for name, s in report.streams.items()]
    title = f"{report.seconds:.1f} s with {report.workers} workers"
    show(context, asdict(report), table(title, ["stream", "events", "landed", "duplicates", "dead letters"], rows))


def reconcile(context: typer.Context, usecase: UseCaseFile = None) -> None:
    """Prove, offset by offset, that produced = landed + duplicates + dead-lettered."""
    from fasttrack.ingest.reconcile import reconcile as prove

    found = prove(load(usecase or default_usecase()), settings(context))
    columns = ["stream", "produced", "landed", "duplicates", "dead letters", "missing", "repeated", "balanced"]
    rows = [
        [name, c.produced, c.landed, c.duplicates, c.dead_lettered, c.missing, c.repeated, c.balanced]
        for name, c in [*found.streams.items(), ("total", found.total)]
    ]
    show(context, {**asdict(found), "balanced": found.balanced}, table("", columns, rows))
    if not found.balanced:
        raise typer.Exit(5)
