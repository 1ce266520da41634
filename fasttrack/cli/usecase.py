"""`fasttrack usecase`: check a file, print the JSON Schema."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fasttrack import usecase as spec
from fasttrack.cli.output import default_usecase, show

group = typer.Typer(no_args_is_help=True, help="Check a use-case file, or print the JSON Schema for editors.")


def register(app: typer.Typer) -> None:
    """Add the group to the command line."""
    app.add_typer(group, name="usecase")


@group.command()
def check(
    context: typer.Context, file: Annotated[Path | None, typer.Argument(help="The use-case file.")] = None
) -> None:
    """Read a use case; say what it makes, or where it is wrong."""
    path = file or default_usecase()
    found = spec.load(path)
    columns = found.columns()
    data = {
        "file": str(path),
        "name": found.name,
        "topics": {stream: found.topic(stream) for stream in found.streams},
        "columns": [column.name for column in columns],
        "models": [candidate.architecture for candidate in found.models],
    }
    show(
        context,
        data,
        f"{path}: {found.name} is a valid use case: {len(found.streams)} streams, {len(columns)} feature columns, "
        f"{len(found.models)} candidate models, {len(found.roles)} roles.",
    )


@group.command()
def schema(context: typer.Context) -> None:
    """Print the JSON Schema (2020-12) of use-case files."""
    show(context, spec.json_schema())
