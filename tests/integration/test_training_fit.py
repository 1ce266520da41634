"""Two real gloo processes under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from fasttrack.errors import StepError
from fasttrack.training.fit import fit
from tests.unit.learning_table import usecase, write

PARAMETERS = {"hidden": 16, "sequence_hidden": 8, "dropout": 0.1}
FILES = ("model.safetensors", "config.json", "training.json")


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def workers_of(out: Path) -> list[psutil.Process]:
    """The training processes that write to `out`, torchrun itself left out."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if f"--out={out}" in words and "fasttrack.training.loopback" not in words:
            found.append(process)
    return found


def listeners(process: psutil.Process) -> list[Any]:
    """The sockets that a process and its children listen on."""
    family = [process, *process.children(recursive=True)]
    return [s for one in family for s in one.connections("tcp") if s.status == psutil.CONN_LISTEN]


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("table"), 6000)


def test_same_bytes_whether_or_not_a_process_was_killed_on_the_way(features: Path, tmp_path: Path) -> None:
    found = usecase(training={"epochs": 16, "patience": 0})
    whole = fit(found, features, "lstm", PARAMETERS, tmp_path / "whole")
    assert not whole.reused
    assert len(whole.curve) == 16
    assert whole.scores["auc"] > 0.7

    out = tmp_path / "killed"
    checkpoint = out / ".work" / "checkpoints" / "last.ckpt"

    def kill_one() -> None:
        wait_for(checkpoint.exists)
        workers_of(out)[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with pytest.raises(StepError) as caught:
        fit(found, features, "lstm", PARAMETERS, out)
    killer.join()
    assert "Signal 9 (SIGKILL)" in str(caught.value)
    assert "training.log" in str(caught.value)
    assert "last finished epoch" in str(caught.value)
    wait_for(lambda: not workers_of(out))
    assert not (out / "model.safetensors").exists()

    resumed = fit(found, features, "lstm", PARAMETERS, out)
    assert '"epoch":1.0,' not in (out / ".work" / "training.log").read_text()
    assert resumed.curve == whole.curve
    assert content(out) == content(whole.folder)

    again = fit(found, features, "lstm", PARAMETERS, out)
    assert again.reused
    assert again.scores == whole.scores


def test_nothing_is_left_running_when_the_starting_process_is_killed(features: Path, tmp_path: Path) -> None:
    out = tmp_path / "orphan"
    script = (
        "import sys; from pathlib import Path; from tests.unit.learning_table import usecase;"
        "from fasttrack.training.fit import fit;"
        "fit(usecase(training={'epochs': 500, 'patience': 0}), sys.argv[1], 'mlp', {'hidden': 16}, Path(sys.argv[2]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    starter = subprocess.Popen([sys.executable, "-c", script, str(features), str(out)], env=environment)
    try:
        wait_for(lambda: len(workers_of(out)) == 2 and (out / ".work" / "checkpoints" / "last.ckpt").exists())
        listening = listeners(psutil.Process(starter.pid))
        assert listening
        assert {socket.laddr.ip for socket in listening} == {"127.0.0.1"}
    finally:
        starter.kill()
        starter.wait()
    wait_for(lambda: not workers_of(out))


def test_an_error_in_a_process_is_told(features: Path, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="no hyperparameter 'depth'"):
        fit(usecase(), features, "mlp", {"depth": 3}, tmp_path / "out")
