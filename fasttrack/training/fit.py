"""The final fit: torchrun with several gloo processes on this machine; resumed after a crash, reused when unchanged."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

import fasttrack
from fasttrack.errors import StepError
from fasttrack.progress import note, track
from fasttrack.training.files import dump_json, write_file
from fasttrack.training.worker import EPOCH_MARK, ERROR_MARK
from fasttrack.usecase import UseCase, dump

_FILES = ("model.safetensors", "config.json", "training.json")
_TAIL_LINES = 12


@dataclass(frozen=True)
class Fit:
    """A finished fit.

    Attributes:
        folder: holds ``model.safetensors``, ``config.json``, ``training.json``.
        scores: validation scores of the best epoch.
        curve: of every epoch.
        seconds: how long it took; 0 when reused.
        reused: whether the same fit had been made before.
    """

    folder: Path
    scores: dict[str, float]
    curve: list[dict[str, float]]
    seconds: float
    reused: bool


def fit(
    usecase: UseCase,
    features_path: str | Path,
    architecture: str,
    parameters: Mapping[str, Any],
    out_dir: str | Path,
    *,
    sample: float = 1.0,
) -> Fit:
    """Fit `architecture` with ``usecase.training`` and write the model files to `out_dir`.

    The same inputs give the same files, byte for byte. A fit that broke off goes on from its last finished epoch; a
    fit that was made before with the same inputs is not made again.

    Args:
        usecase: the use case.
        features_path: the feature table.
        architecture: candidate to fit.
        parameters: its hyperparameters.
        out_dir: folder for the model files; a subfolder ``.work`` holds the log and checkpoints of a running fit.
        sample: share of the training rows.

    Raises:
        StepError: a process failed or was killed; the message ends with what it said last.
        StorageError: the folder can't be written.
    """
    out = Path(out_dir).absolute()
    stamp = fit_stamp(usecase, features_path, architecture, parameters, sample)
    kept = out / ".work" / "stamp"
    same = kept.is_file() and kept.read_text() == stamp
    if same and all((out / name).is_file() for name in _FILES):
        return _result(out, 0.0, reused=True)
    if not same:
        for name in _FILES:
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / ".work", ignore_errors=True)
    write_file(out / ".work" / "usecase.yaml", dump_json(dump(usecase)))
    write_file(kept, stamp.encode())
    started = time.monotonic()
    _launch(_command(usecase, features_path, architecture, parameters, out, sample), out, usecase.training.epochs)
    shutil.rmtree(out / ".work" / "checkpoints", ignore_errors=True)
    return _result(out, time.monotonic() - started, reused=False)


def fit_stamp(
    usecase: UseCase, features_path: str | Path, architecture: str, parameters: Mapping[str, Any], sample: float
) -> str:
    """Digest of all that a fit depends on: the use case's learning parts, table, candidate, version of this code."""
    document = dump(usecase)
    relevant = {
        name: document.get(name) for name in ("prediction", "label", "features", "split", "training", "streams")
    }
    relevant |= {"metric": usecase.tuning.metric, "coverage": usecase.gate.coverage, "version": fasttrack.__version__}
    relevant |= {"table": table_stamp(features_path), "architecture": architecture, "parameters": dict(parameters)}
    return hashlib.sha256(dump_json({**relevant, "sample": sample})).hexdigest()


def table_stamp(features_path: str | Path) -> list[Any]:
    """What tells one feature table from another without reading it: its name, and size and time of its files.

    An object store's table is told by its address alone: that ends with the table's fingerprint.
    """
    root = Path(features_path)
    files = sorted(path for path in root.rglob("*.parquet")) if root.is_dir() else []
    found = [[str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    return [root.name, *found] if files else [str(features_path)]


def _command(
    usecase: UseCase,
    features_path: str | Path,
    architecture: str,
    parameters: Mapping[str, Any],
    out: Path,
    sample: float,
) -> list[str]:
    torchrun = [
        sys.executable,
        "-m",
        "fasttrack.training.loopback",
        "--nnodes=1",
        f"--nproc-per-node={usecase.training.workers}",
    ]
    torchrun += ["--rdzv-backend=loopback", "--local-addr=127.0.0.1", "--max-restarts=0"]
    features = str(features_path) if "://" in str(features_path) else str(Path(features_path).absolute())
    return [
        *torchrun,
        "-m",
        "fasttrack.training.worker",
        f"--usecase={out / '.work' / 'usecase.yaml'}",
        f"--features={features}",
        f"--architecture={architecture}",
        f"--parameters={orjson.dumps(dict(parameters)).decode()}",
        f"--out={out}",
        f"--sample={sample}",
        "--follow-stdin",
    ]


def _environment() -> dict[str, str]:
    # PET_ variables steer torchrun, the others would make it join a group that isn't ours.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PET_") and k not in ("RANK", "WORLD_SIZE")}
    package_root = str(Path(fasttrack.__file__).parents[1])
    path = os.pathsep.join(part for part in (package_root, inherited.get("PYTHONPATH")) if part)
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    return {**inherited, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback}


def _launch(command: list[str], out: Path, epochs: int) -> None:
    """Run torchrun to its end, showing epochs as they finish; everything it says goes to ``.work/training.log``."""
    log = out / ".work" / "training.log"
    tail: deque[str] = deque(maxlen=200)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(),
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        with track("Training", total=epochs, unit="epochs") as bar, log.open("w", encoding="utf-8") as written:
            assert process.stdout is not None
            for line in process.stdout:
                written.write(line)
                tail.append(line.rstrip())
                if line.startswith(EPOCH_MARK):
                    scores = orjson.loads(line.removeprefix(EPOCH_MARK))
                    shown = f"AUC {scores['auc']:.4f}, MAE {scores['mae']:.2f}"
                    note(f"  epoch {scores['epoch']:.0f}/{epochs}: validation {shown}")
                    bar.advance()
        code = process.wait()
    finally:
        _end(process)
    if code != 0:
        raise StepError(
            f"training failed with exit code {code}: {_reason(tail)}",
            where=str(log),
            fix="Start the step again: it goes on from the last finished epoch.",
        )


def _end(process: subprocess.Popen[str]) -> None:
    """End whatever is left of the process group, also on Ctrl-C."""
    if process.stdin is not None:
        process.stdin.close()
    for ending in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        os.killpg(process.pid, ending)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
    if process.stdout is not None:
        process.stdout.close()


def _reason(tail: deque[str]) -> str:
    """What says most: our own error, the signal that killed a process, an exception; else the last lines."""
    for mark in (ERROR_MARK, "Signal ", "Error: "):
        # SIGTERM is what torchrun sends to the others after the first has failed.
        found = [line.partition(mark) for line in tail if mark in line and "SIGTERM" not in line]
        if found:
            _, _, said = found[0]
            return said.strip() if mark == ERROR_MARK else mark + said.strip()
    return " / ".join(list(tail)[-_TAIL_LINES:])


def _result(out: Path, seconds: float, *, reused: bool) -> Fit:
    document = orjson.loads((out / "training.json").read_bytes())
    return Fit(out, document["best"], document["curve"], seconds, reused)
