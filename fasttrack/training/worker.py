"""One process of a distributed fit: ``torchrun -m fasttrack.training.worker --usecase ... --features ... --out ...``.

The same command runs under `fasttrack.training.fit` on one machine and under a TrainJob's torchrun on a cluster.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from fasttrack import usecase as usecases
from fasttrack.errors import ConfigurationError, FastTrackError

#: A line that starts with this carries one epoch's scores as JSON.
EPOCH_MARK = "fasttrack-epoch "
#: A line that starts with this says why a process gave up.
ERROR_MARK = "fasttrack-error "


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit and, in the first process, write the model files; returns the exit code."""
    options = _parse(arguments)
    if options.follow_stdin:
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        _run(options)
    except FastTrackError as error:
        print(f"{ERROR_MARK}{error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fit one model, as one process of several.")
    parser.add_argument("--usecase", type=Path, required=True, help="use-case file")
    parser.add_argument("--features", required=True, help="folder or URI of the feature table")
    parser.add_argument("--architecture", required=True)
    parser.add_argument("--parameters", default="{}", help="hyperparameters as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model files")
    parser.add_argument("--sample", type=float, default=1.0, help="share of the training rows")
    parser.add_argument("--follow-stdin", action="store_true", help="end when standard input is closed")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> None:
    # Imported here, so that a wrong option is told at once and not after torch has loaded.
    import torch

    from fasttrack.training.artifacts import model_files
    from fasttrack.training.data import load_splits
    from fasttrack.training.files import write_file
    from fasttrack.training.loop import train
    from fasttrack.training.prepare import prepare

    warnings.filterwarnings("ignore", module="torch.distributed")
    torch.set_num_threads(1)
    usecase = usecases.load(options.usecase)
    parameters = _parameters(options.parameters)
    splits = load_splits(usecase, options.features, options.sample, usecase.training.seed)
    prepared = prepare(usecase, splits.train, splits.validate)
    del splits
    checkpoints = options.out / ".work" / "checkpoints"
    trained = train(
        prepared, options.architecture, parameters, final_plan(usecase), checkpoints=checkpoints, on_epoch=_print_epoch
    )
    if int(os.environ.get("RANK", 0)) == 0:
        for name, content in model_files(trained, prepared, options.architecture, parameters).items():
            write_file(options.out / name, content)
    if torch.distributed.is_initialized():
        # Nobody leaves before the files are there: an early exit would take the first process down with it.
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def final_plan(usecase: usecases.UseCase) -> Any:
    """The `Plan` of the final fit, out of the use case."""
    from fasttrack.training.module import Plan

    training = usecase.training
    return Plan(
        epochs=training.epochs,
        batch_size=training.batch_size,
        patience=training.patience,
        seed=training.seed,
        metric=usecase.tuning.metric,
        coverage=usecase.gate.coverage,
    )


def _parameters(text: str) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(f"--parameters is not JSON: {error}.", fix='Write e.g. {"hidden": 128}.') from error
    if not isinstance(found, dict):
        raise ConfigurationError("--parameters is not a JSON object.", fix='Write e.g. {"hidden": 128}.')
    return found


def _print_epoch(scores: dict[str, float]) -> None:
    print(EPOCH_MARK + orjson.dumps(scores).decode(), flush=True)


def _exit_with_parent() -> None:
    # The pipe closes when the process that started the fit ends, however it ends; nothing is left running then.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
