"""`fasttrack up | down | status | doctor`: the local platform."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasttrack.cli.cluster import doctor_cluster
from fasttrack.cli.output import options, show, table


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (up, down, status, doctor):
        app.command()(command)


def up(context: typer.Context) -> None:
    """Start Kafka, PostgreSQL, Redis, the schema registry, the gateway and what was published, in the background."""
    from fasttrack.local import control

    home = options(context).home
    control.up(home)
    status(context)


def down(
    context: typer.Context,
    wipe: Annotated[bool, typer.Option("--wipe", help="Also delete the data folder. There is no way back.")] = False,
) -> None:
    """Stop the local platform; its data stays unless `--wipe` is given."""
    from fasttrack.local import control

    home = options(context).home
    stopped = control.down(home, wipe=wipe)
    show(context, {"stopped": stopped, "wiped": wipe}, "Stopped." if stopped else "Nothing was running.")


def status(context: typer.Context) -> None:
    """Show each part: running or not, address, process id, memory."""
    from fasttrack.local import control

    parts = control.status(options(context).home)
    rows = [[part.name, part.state, part.address, part.pid or "", part.memory_mb or ""] for part in parts]
    data = [
        {"name": p.name, "state": p.state, "address": p.address, "pid": p.pid, "memory_mb": p.memory_mb} for p in parts
    ]
    show(context, data, table("", ["part", "state", "address", "pid", "MB"], rows))
    if not any(part.state == "running" for part in parts):
        raise typer.Exit(3)


def doctor(
    context: typer.Context,
    cluster: Annotated[bool, typer.Option("--cluster", help="Check the cluster of the kubeconfig instead.")] = False,
    usecase: Annotated[Path | None, typer.Option(help="With --cluster: the use case that it has to take.")] = None,
    registry: Annotated[str, typer.Option(help="With --cluster: the image registry.")] = "",
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="With --cluster: the namespace.")] = "fasttrack",
    kube: Annotated[str | None, typer.Option("--context", help="With --cluster: context of the kubeconfig.")] = None,
) -> None:
    """Check this machine and the platform, or a cluster; say what to mend."""
    if cluster:
        doctor_cluster(context, usecase, registry=registry, namespace=namespace, cluster=kube)
        return
    from fasttrack.local.doctor import examine

    findings = examine(options(context).home)
    rows = [["ok" if f.ok else "MEND", f.name, f.detail, f.fix or ""] for f in findings]
    data = [{"name": f.name, "ok": f.ok, "detail": f.detail, "fix": f.fix} for f in findings]
    show(context, data, table("", ["", "check", "found", "what to do"], rows))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
