"""`fasttrack ingest`: what the use case's sources hold, into the streams' topics."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

import typer

from fasttrack.cli.output import default_usecase, settings, show, table
from fasttrack.cli.parameters import UseCaseFile
from fasttrack.progress import note
from fasttrack.usecase import load


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(ingest)


def ingest(
    context: typer.Context,
    source: Annotated[list[str] | None, typer.Argument(help="Which sources; all by default.")] = None,
    usecase: UseCaseFile = None,
    until: Annotated[
        Literal["end", "forever"],
        typer.Option(help="`end`: what the sources hold now. `forever`: also what comes, until Ctrl-C or SIGTERM."),
    ] = "forever",
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve Prometheus metrics at this port.", min=0, max=65535)
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="The address to serve them at.")] = "127.0.0.1",
) -> None:
    """Bring records of the use case's sources into Kafka, each one once.

    Sources are declared under `sources` in the use case: files, REST APIs, Postgres tables, other topics. Each goes on
    where it stopped, whatever ended it: position and proof lie in Kafka, in the topic `<use case>.sources`. What
    doesn't fit its contract is sent as it is, and the drain makes a dead letter of it. Run one ingester a source.

    `fasttrack ingest --until end && fasttrack drain && fasttrack reconcile`
    """
    from fasttrack.ingest.sources.run import ingest as run

    case, where = load(usecase or default_usecase()), settings(context)
    if metrics_port is None:
        report = run(case, where, source or (), until=until)
    else:
        from fasttrack.ingest.sources.metrics import Metrics

        metrics = Metrics(case.name, metrics_host, metrics_port)
        note(f"metrics: http://{metrics_host}:{metrics.port}/metrics")
        try:
            report = run(case, where, source or (), until=until, metrics=metrics)
        finally:
            metrics.close()
    rows = [
        [name, s.stream, s.read, s.sent, s.skipped, s.unparsable, s.errors, len(s.broken)]
        for name, s in report.sources.items()
    ]
    columns = ["source", "stream", "read", "sent", "there already", "unparsable", "errors", "broken"]
    show(context, asdict(report), table(f"{report.seconds:.1f} s", columns, rows))
    if report.interrupted:
        raise typer.Exit(130)
    if until == "end" and any(s.broken for s in report.sources.values()):
        raise typer.Exit(7)
