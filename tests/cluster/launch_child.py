"""A train step as a process of its own, so that a test can end it as a cluster would."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from fasttrack.kubeflow.cluster.client import connect
from fasttrack.kubeflow.launchers import train
from fasttrack.usecase import load
from tests.cluster.launcher_rig import Rig


def main() -> None:
    """Launch a TrainJob in the namespace that the command line names."""
    # A shell that starts the tests in the background has its children ignore SIGINT; a pod's processes don't.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    usecase, folder, namespace, run_id = sys.argv[1:5]
    rig = Rig(connect(), namespace, Path(folder), load(usecase))
    rig.step_pod = rig.make_step_pod(f"step-{run_id}")
    print("up", flush=True)
    train.fit(rig.place(), rig.step("train-1", run_id), "train-1", "/f", "mlp", {"hidden": 64}, Path(folder) / run_id)


if __name__ == "__main__":
    main()
