"""What tests of the launchers do beside the cluster: wait, run a step in a thread, write what a finished fit leaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fasttrack.kubeflow.cluster.kinds import Object
from fasttrack.registry.records import ModelVersion

T = Any


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def until(found: Callable[[], T], seconds: float = 30.0, told: Callable[[], str] = lambda: "it did not come") -> T:
    """What `found` returns as soon as that is true."""
    ends = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < ends, told()
        time.sleep(0.2)
    return answer


def conditions(kind: str, reason: str) -> list[Object]:
    """One condition that is true since now."""
    return [
        {
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": f"by a test: {reason}",
            "lastTransitionTime": now(),
        }
    ]


def write_model(folder: Path) -> None:
    """What a finished fit leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"best": {"auc": 0.7, "mae": 9.0}, "curve": [{"epoch": 1.0, "auc": 0.7, "mae": 9.0}], "train_rows": 9}
    (folder / "training.json").write_text(json.dumps(document))


def write_answer(folder: Path, application: str, answer: Object) -> None:
    """What a driver leaves, in the folder of its run."""
    (folder / "launched").mkdir(exist_ok=True)
    (folder / "launched" / f"{application}.json").write_text(json.dumps(answer))


def model_version(number: int) -> ModelVersion:
    """A version of the flights model, as the registry tells of it."""
    made = ModelVersion.__new__(ModelVersion)
    uri = f"/var/lib/fasttrack/packages/flights/v{number}"
    for name, value in {"name": "flights", "version": number, "digest": f"sha256:{number:064d}", "uri": uri}.items():
        object.__setattr__(made, name, value)
    return made


class Background:
    """A call in a thread: its result, or its error."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()

    def join(self, seconds: float = 90.0) -> Any:
        """Wait for it."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "it did not end"
        if self._error is not None:
            raise self._error
        return self.result
