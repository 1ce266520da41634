"""`fasttrack lake`: the lake's tables, their small files put together, and what nobody needs any more deleted."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fasttrack.cli.output import default_usecase, settings, show, table
from fasttrack.cli.parameters import UseCaseFile
from fasttrack.errors import ConfigurationError, NotFoundError
from fasttrack.progress import note, track
from fasttrack.usecase import load
from fasttrack.usecase.durations import parse_duration

if TYPE_CHECKING:
    from fasttrack.steps.pins import Pins

group = typer.Typer(no_args_is_help=True, help="List the lake's tables, compact small files, delete unused ones.")

Tables = Annotated[
    list[str] | None, typer.Option("--table", metavar="NAME", help="Only this table, such as raw/departed.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
TargetSize = Annotated[int, typer.Option("--target-mib", help="The size that files shall have, in MiB.", min=1)]
# A run reads its tables' versions first, and records them when its step ends.
_LEAST_RETENTION = timedelta(hours=1)
_MIB = 2**20


def register(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="lake")


@group.command("list")
def list_tables(context: typer.Context, usecase: UseCaseFile = None, target: TargetSize = 128) -> None:
    """List the tables: version, files, rows, bytes, how many files are small, which versions are pinned."""
    from fasttrack.lake.compaction import Policy
    from fasttrack.lake.datafiles import state, table_paths
    from fasttrack.steps.pins import pins

    case, places = load(usecase or default_usecase()), settings(context)
    pinned, small = pins(case, places), Policy(target * _MIB).small
    states = [state(name, path, small, _pinned_by(pinned, name)) for name, path in table_paths(places, case).items()]
    columns = ["table", "version", "files", "rows", "bytes", "small", "pinned"]
    rows = [[*list(asdict(one).values())[:-1], ", ".join(map(str, one.pinned))] for one in states]
    told = [asdict(one) | {"pinned": {str(v): _pinned_by(pinned, one.table)[v] for v in one.pinned}} for one in states]
    show(context, told, table("", columns, rows))


@group.command("compact")
def compact_tables(
    context: typer.Context,
    usecase: UseCaseFile = None,
    tables: Tables = None,
    target: TargetSize = 128,
    dry_run: DryRun = False,
) -> None:
    """Put small files together, while drains and readers go on; deletes nothing (see `fasttrack lake vacuum`)."""
    from fasttrack.lake.compaction import Policy, compact

    paths = _chosen(context, usecase, tables)
    done = {}
    with track("Compacting", unit="files") as bar:
        for name, path in paths.items():
            done[name] = compact(path, Policy(target * _MIB), dry_run=dry_run, advance=bar.advance)
    columns = ["table", "files before", "files after", "rows", "bytes before", "bytes after", "lost"]
    rows = [[name, *asdict(one).values()] for name, one in done.items()]
    title = "What would be put together" if dry_run else "What was put together"
    show(context, {name: asdict(one) for name, one in done.items()}, table(title, columns, rows))
    if any(one.lost for one in done.values()):
        note("Some files were left: another compaction had them first, or a drain was too busy. Run it again.")


@group.command("vacuum")
def vacuum_tables(
    context: typer.Context,
    usecase: UseCaseFile = None,
    tables: Tables = None,
    retention: Annotated[
        str, typer.Option(help="How long a version can be read after it was the newest, such as 36h.")
    ] = "7d",
    dry_run: DryRun = False,
) -> None:
    """Delete files that neither a pinned version needs, nor one that was the newest within the retention."""
    from fasttrack.lake.vacuum import vacuum
    from fasttrack.steps.pins import pins

    kept_for = _retention(retention)
    paths = _chosen(context, usecase, tables)
    pinned = pins(load(usecase or default_usecase()), settings(context))
    done = {}
    with track("Deleting", unit="files") as bar:
        for name, path in paths.items():
            done[name] = vacuum(
                path, _pinned_by(pinned, name), retention=kept_for, dry_run=dry_run, advance=bar.advance
            )  # fmt: skip
            for version in done[name].unknown:
                who = ", ".join(pinned[name.removeprefix("raw/")][version])
                note(f"{name} has no version {version}, from which {who} was made: it is an older table's")
    rows = [[name, len(one.files), one.bytes, ", ".join(map(str, one.pinned))] for name, one in done.items()]
    title = "What would be deleted" if dry_run else "What was deleted"
    told = {name: asdict(one) | {"files": len(one.files), "names": one.files} for name, one in done.items()}
    show(context, told, table(title, ["table", "files", "bytes", "kept for versions"], rows))


def _chosen(context: typer.Context, usecase: Any, names: list[str] | None) -> dict[str, str]:
    from fasttrack.lake.datafiles import table_paths

    paths = table_paths(settings(context), load(usecase or default_usecase()))
    if unknown := [name for name in names or [] if name not in paths]:
        raise NotFoundError(
            f"the lake has no table {unknown[0]!r}.", where="--table", fix=f"It has {', '.join(paths) or 'none'}."
        )
    return {name: path for name, path in paths.items() if names is None or name in names}


def _retention(text: str) -> timedelta:
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise ConfigurationError(f"{error}.", where="--retention", fix="Write 36h or 7d.") from error
    if found < _LEAST_RETENTION:
        raise ConfigurationError(
            "a run that has just begun would lose what it reads.", where=f"--retention {text}", fix="Give 1h or more."
        )
    return found


def _pinned_by(pinned: Pins, name: str) -> dict[int, list[str]]:
    kind, _, stream = name.partition("/")
    return pinned.get(stream, {}) if kind == "raw" else {}
