"""A step outlives its API server. In a file of its own, near the end: operators and garbage collector need minutes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.launchers import train
from fasttrack.usecase import load
from tests.cluster.launcher_rig import rig
from tests.cluster.stage import Background, until, write_model

ROOT = Path(__file__).parents[2]
NODES = "jobset.sigs.k8s.io/replicatedjob-name=node"


def restart_api_server(cluster: Cluster) -> None:
    """Kill the API server and start it again, where the cluster is ours (shared/cluster/up).

    On another cluster, whose API server nobody may kill, all of this process's connections are cut instead.
    """
    home = Path(os.environ["KUBECONFIG"]).parent
    pid_file = home / "run" / "kube-apiserver.pid"
    if not pid_file.is_file():
        cluster._api.rest_client.pool_manager.clear()
        return
    os.kill(json.loads(pid_file.read_text())["pid"], signal.SIGKILL)
    time.sleep(2)
    script = Path(os.environ.get("FASTTRACK_CLUSTER_UP") or Path(__file__).parents[3] / "shared/cluster/up")
    environment = os.environ | {"FASTTRACK_CLUSTER_HOME": str(home)}
    subprocess.run([script], env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_restart_of_the_api_server_does_not_end_a_step(tmp_path: Path) -> None:
    with rig(tmp_path, load(ROOT / "examples/flights/usecase.yaml")) as room:
        at, folder, place = room.step("train-1"), tmp_path / "model", room.place(train=240.0)
        call = Background(lambda: train.fit(place, at, "train-1", "/lake/f", "mlp", {"hidden": 64}, folder))
        until(lambda: [pod["status"].get("phase") for pod in room.pods(NODES)] == ["Running", "Running"], 60)
        restart_api_server(room.own)
        write_model(folder)
        for pod in room.pods(NODES):
            room.end(pod)
        # The operators take their time to come back.
        assert call.join(240)["scores"]["auc"] == 0.7
        assert at.record["cluster"]["attempts"] == 1
        room.wait_clean()
