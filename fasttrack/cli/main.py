"""Entry point: global options, and one line for every error."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from fasttrack import __version__
from fasttrack.cli import (
    audit,
    cluster,
    data,
    deadletters,
    ingest,
    lake,
    models,
    pipeline,
    platform,
    rollout,
    serving,
    submit,
    usecase,
)
from fasttrack.cli.output import Options
from fasttrack.errors import FastTrackError
from fasttrack.progress import note
from fasttrack.settings import data_home

_ANYWHERE = {"--json": 0, "--debug": 0, "--home": 1}

app = typer.Typer(
    name="fasttrack",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "From event streams to explained, authenticated predictions, described in one YAML file.\n\n"
        "Start with `fasttrack demo`. Step by step: `fasttrack up`, `fasttrack replay`, `fasttrack run`, "
        "`fasttrack predict`. Every command takes `--json`, `--debug` and `--home DIR`, before or after its name.\n\n"
        "Exit codes: 0 done, 2 wrong use or configuration, 3 a server does not answer, 4 integrity, "
        "5 data would be lost, 6 storage, 7 data quality, 8 refused by the gate, 9 conflict, 10 not found, "
        "11 invalid request, 12 not allowed, 13 too many requests, 14 a step failed, 15 `plan --exit-code` and "
        "`diff --exit-code` found something to change, 130 interrupted."
    ),
)


@app.callback()
def _global_options(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    home: Annotated[Path | None, typer.Option("--home", help="Data folder of the local platform.")] = None,
) -> None:
    folder = home.expanduser().absolute() if home else data_home()
    context.obj = Options(home=folder, json=json, debug=debug)


for room in (
    platform,
    ingest,
    data,
    deadletters,
    lake,
    pipeline,
    submit,
    cluster,
    models,
    serving,
    rollout,
    audit,
    usecase,
):
    room.register(app)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def main() -> None:
    """Run the command line; never prints a traceback unless ``--debug`` is given."""
    arguments = _options_first(sys.argv[1:])
    debug = "--debug" in arguments
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        code = app(arguments, standalone_mode=False, prog_name="fasttrack")
    except FastTrackError as error:
        if debug:
            raise
        note(f"Error: {error}")
        code = error.exit_code
    except typer.TyperException as error:
        say = getattr(error, "format_message", error.__str__)
        if message := say():
            note(f"Error: {message} See `fasttrack --help`.")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        note("Interrupted.")
        code = 130
    except BrokenPipeError:
        code = 0
    except Exception as error:
        if debug:
            raise
        note(f"Error: unexpected {type(error).__name__}: {error}. Run it again with --debug for the trace.")
        code = 70
    sys.exit(code if isinstance(code, int) else 0)


def _options_first(arguments: list[str]) -> list[str]:
    """Move the global options before the command, so that they may be written anywhere."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name = word.split("=", 1)[0]
        if word == "--":
            rest.append(word)
            rest.extend(words)
        elif name in _ANYWHERE:
            front.append(word)
            if _ANYWHERE[name] and "=" not in word:
                front.extend(value for value in [next(words, None)] if value is not None)
        else:
            rest.append(word)
    return front + rest
