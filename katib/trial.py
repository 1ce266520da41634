"""Entry point of a Katib trial: the hyperparameters come as flags, the metrics go to a file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fasttrack.errors import ConfigurationError, FastTrackError
from fasttrack.settings import Settings
from fasttrack.steps.trial import newest_table, trial
from fasttrack.usecase import UseCase, load, parse

#: Holds the use case as YAML text where no file is given, as in a pod.
USECASE = "FASTTRACK_USECASE"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one trial and return the exit code."""
    options = _parse(arguments)
    try:
        usecase = _usecase(options.usecase)
        features = options.features or newest_table(usecase, Settings.from_environment())
        scores = trial(usecase, features, dict(options.set), options.metrics)
    except FastTrackError as error:
        print(f"{error.title}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    print(" ".join(f"{name}={value:.6f}" for name, value in scores.items()), flush=True)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run one trial of a search.")
    parser.add_argument("--usecase", type=Path, help=f"use-case file; by default the text in {USECASE}")
    parser.add_argument("--features", help="folder or URI of the feature table; by default the newest in the lake")
    parser.add_argument("--metrics", type=Path, required=True, help="file for the metrics, one JSON object a line")
    parser.add_argument("--set", type=_pair, action="append", default=[], metavar="NAME=VALUE", help="a hyperparameter")
    return parser.parse_args(arguments)


def _pair(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _usecase(path: Path | None) -> UseCase:
    if path is not None:
        return load(path)
    if USECASE not in os.environ:
        raise ConfigurationError("no use case is given.", where="--usecase", fix=f"Give the file, or set {USECASE}.")
    return parse(os.environ[USECASE], USECASE)


if __name__ == "__main__":
    sys.exit(main())
