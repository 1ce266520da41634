"""`fasttrack models`: the registry's versions, their stages and approvals."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from fasttrack.cli.output import settings, show, table
from fasttrack.errors import ConfigurationError

if TYPE_CHECKING:
    from fasttrack.registry.store import Registry

group = typer.Typer(no_args_is_help=True, help="List model versions, show one, move one to another stage.")

Name = Annotated[str, typer.Argument(help="Name of the model: the use case's name.")]
Version = Annotated[int, typer.Argument(help="Version number.")]


def register(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="models")


@contextmanager
def registry(context: typer.Context) -> Iterator[Registry]:
    """The registry of the platform in use, its tables made if need be."""
    from fasttrack.registry.store import Registry

    opened = Registry(settings(context).require("postgres"))
    try:
        opened.migrate()
        yield opened
    finally:
        opened.close()


@group.command("list")
def list_versions(
    context: typer.Context, name: Annotated[str | None, typer.Argument(help="Only this model.")] = None
) -> None:
    """List the versions of all models, or of one."""
    with registry(context) as store:
        versions = store.list(name)
    rows = [[v.name, v.version, v.stage, v.digest[:19], f"{v.created_at:%Y-%m-%d %H:%M}"] for v in versions]
    show(context, [asdict(v) for v in versions], table("", ["model", "version", "stage", "digest", "registered"], rows))


@group.command("show")
def show_version(context: typer.Context, name: Name, version: Version) -> None:
    """Show one version: metrics, lineage back to lake versions and Kafka offsets, approvals."""
    with registry(context) as store:
        found = asdict(store.get(name, version))
        found["lineage"] = asdict(store.lineage(name, version))
        found["approvals"] = [asdict(approval) for approval in store.approvals(name, version)]
        found["stage_changes"] = [asdict(change) for change in store.stage_changes(name, version)]
    show(context, found)


@group.command("stage")
def stage_version(
    context: typer.Context,
    name: Name,
    version: Version,
    stage: Annotated[str, typer.Argument(help="candidate, challenger, champion or archived.")],
    why: Annotated[str, typer.Option(help="The reason, kept with the change.")],
    who: Annotated[str, typer.Option(help="Who decides; default: you.")] = "",
) -> None:
    """Move a version to another stage; who and why are kept."""
    from fasttrack.registry.records import Stage

    known: tuple[Stage, ...] = get_args(Stage)
    chosen = next((word for word in known if word == stage), None)
    if chosen is None:
        raise ConfigurationError(f"{stage!r} is no stage.", fix=f"Use one of: {', '.join(known)}.")
    with registry(context) as store:
        moved = store.set_stage(name, version, chosen, who or getpass.getuser(), why)
    show(context, asdict(moved), f"{moved.name} version {moved.version} is now {moved.stage}.")
