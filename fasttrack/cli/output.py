"""What every command shares: the global options, and printing for people or for machines."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from fasttrack.errors import ConfigurationError
from fasttrack.settings import PREFIX, Settings, data_home


@dataclass(frozen=True)
class Options:
    """The global options."""

    home: Path
    json: bool
    debug: bool


def options(context: typer.Context) -> Options:
    """The global options of this call."""
    found = context.find_root().obj
    return found if isinstance(found, Options) else Options(data_home(), False, False)


def settings(context: typer.Context) -> Settings:
    """Where the parts are: the environment if it says so, else the local platform of the data folder.

    Raises:
        ConfigurationError: neither is there.
    """
    if PREFIX + "KAFKA" in os.environ:
        return Settings.from_environment()
    from fasttrack.local.platform import Platform

    home = options(context).home
    if not (home / "platform.json").exists():
        raise ConfigurationError("there is no local platform.", where=str(home), fix="Start one with `fasttrack up`.")
    platform = Platform(home)
    os.environ.update(platform.environment())
    return platform.settings()


def show(context: typer.Context, data: Any, human: str | Table | None = None) -> None:
    """Print `data` as JSON with ``--json``, else `human`."""
    if options(context).json or human is None:
        text = orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY, default=str)
        sys.stdout.write(text.decode() + "\n")
    else:
        Console(highlight=False, soft_wrap=not isinstance(human, Table)).print(human)


def table(title: str, columns: list[str], rows: list[list[Any]]) -> Table:
    """A plain table; numbers are right-aligned with thousands separators."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(columns))]
    for column, right in zip(columns, numeric, strict=True):
        made.add_column(column, justify="right" if right else "left")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def default_usecase() -> Path:
    """``usecase.yaml`` here, or the example of this checkout.

    Raises:
        ConfigurationError: there is neither.
    """
    here = Path("usecase.yaml")
    if here.exists():
        return here
    examples = sorted((Path(__file__).parents[2] / "examples").glob("*/usecase.yaml"))
    if not examples:
        raise ConfigurationError("no use case is given.", fix="Name a file: `--usecase path/to/usecase.yaml`.")
    return examples[0]
