"""A step as a process of its own, so that a test can end it as a cluster would."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from fasttrack.kubeflow.cluster.client import connect
from fasttrack.kubeflow.cluster.kinds import POD
from fasttrack.kubeflow.launchers import publish, spark, train, tune
from fasttrack.usecase import canonical_text, load
from tests.cluster.launcher_rig import Rig
from tests.cluster.stage import model_version

#: Steps that run once in a run.
ONCE = ("features", "publish")


def main() -> None:
    """Launch what the command line says, as the account and for the pod that it names."""
    # A shell that starts the tests in the background has its children ignore SIGINT; a pod's processes don't.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    usecase, folder, account, namespace, what, run_id = sys.argv[1:7]
    rig = Rig(connect(kubeconfig=account), Path(account), namespace, Path(folder), load(usecase))
    rig.step_pod = rig.own.get(POD, f"step-{run_id}", namespace)
    at = rig.step(what if what in ONCE else f"{what}-1", run_id)
    print("up", flush=True)
    if what == "train":
        train.fit(rig.place(), at, at.name, "/f", "mlp", {"hidden": 64}, Path(folder) / run_id)
    elif what == "features":
        spark.features(rig.place(features=240.0), at, {"flights": 3})
    elif what == "publish":
        publish.serve(rig.place(publish=240.0), at, model_version(2), canonical_text(rig.usecase))
    else:
        tune.search(rig.place(tune=240.0), at, at.name, "/f", 1)


if __name__ == "__main__":
    main()
