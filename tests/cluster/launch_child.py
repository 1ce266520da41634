"""A train step as a process of its own, so that a test can end it as a cluster would."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from fasttrack.kubeflow.cluster.client import connect
from fasttrack.kubeflow.cluster.kinds import POD
from fasttrack.kubeflow.launchers import train, tune
from fasttrack.usecase import load
from tests.cluster.launcher_rig import Rig


def main() -> None:
    """Launch what the command line says, as the account and for the pod that it names."""
    # A shell that starts the tests in the background has its children ignore SIGINT; a pod's processes don't.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    usecase, folder, account, namespace, what, run_id = sys.argv[1:7]
    rig = Rig(connect(kubeconfig=account), Path(account), namespace, Path(folder), load(usecase))
    rig.step_pod = rig.own.get(POD, f"step-{run_id}", namespace)
    at = rig.step(f"{what}-1", run_id)
    print("up", flush=True)
    if what == "train":
        train.fit(rig.place(), at, at.name, "/f", "mlp", {"hidden": 64}, Path(folder) / run_id)
    else:
        tune.search(rig.place(tune=240.0), at, at.name, "/f", 1)


if __name__ == "__main__":
    main()
