"""What tests of the launchers need: a namespace with a step's pod, and hands that do what a kubelet would."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fasttrack.kubeflow.cluster.client import Cluster, connect
from fasttrack.kubeflow.cluster.kinds import (
    CONFIG_MAP,
    DEPLOYMENT,
    EXPERIMENT,
    INFERENCE_SERVICE,
    NAMESPACE,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    SPARK_APPLICATION,
    TRAIN_JOB,
    TRIAL,
    Kind,
    Object,
)
from fasttrack.kubeflow.launchers.place import Limits, Place, owner_reference
from fasttrack.kubeflow.pods import PIPELINE_ACCOUNT
from fasttrack.settings import Settings
from fasttrack.steps.frame import Step
from fasttrack.usecase import UseCase, canonical_text
from tests.cluster.furniture import HOLD, deployed
from tests.cluster.identity import as_account
from tests.cluster.stage import now, until

ROOT = Path(__file__).parents[2]
STEP = "fasttrack.test/step"
JOB = Kind("batch/v1", "Job")
SUGGESTION = Kind("kubeflow.org/v1beta1", "Suggestion")
JOB_SET = Kind("jobset.x-k8s.io/v1alpha2", "JobSet")
#: Everything that a step might leave behind.
LAUNCHED = (TRAIN_JOB, SPARK_APPLICATION, EXPERIMENT, SUGGESTION, TRIAL, INFERENCE_SERVICE, DEPLOYMENT, JOB_SET, JOB)
SECURITY = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass
class Rig:
    """A namespace of its own.

    Attributes:
        cluster: as its administrator: the hands of kubelet and people.
        account: a kubeconfig of the account that steps run as.
        own: as that account: what a step is given.
    """

    cluster: Cluster
    account: Path
    namespace: str
    folder: Path
    usecase: UseCase
    step_pod: Object = field(default_factory=dict)
    _given_up: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.own = connect(kubeconfig=str(self.account))

    def place(self, **limits: Any) -> Place:
        """The place of a step in this namespace, with limits for tests."""
        given = {"features": 60.0, "train": 60.0, "tune": 90.0, "publish": 60.0, "stuck": 6.0, "pending": 6.0, **limits}
        owner = owner_reference(self.step_pod)
        return Place(self.own, self.namespace, "registry.invalid", owner, limits=Limits(**given))

    def step(self, name: str, run_id: str = "run-1") -> Step:
        """What a step has at hand."""
        settings = Settings(runs=str(self.folder / "runs"), lake=str(self.folder / "lake"))
        folder = self.folder / "runs" / self.usecase.name / run_id
        folder.mkdir(parents=True, exist_ok=True)
        return Step(name, self.usecase, settings, run_id, {}, folder)

    def pods(self, labels: str) -> list[Object]:
        """The pods with these labels that are not being deleted."""
        found = self._counted(self.cluster.list(POD, self.namespace, labels=labels))
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def left(self) -> dict[str, str]:
        """What was launched and is still there, by uid; pods of steps and ConfigMaps from before are left out."""
        labels = {POD: f"!{STEP}", CONFIG_MAP: "fasttrack.ai/run"}
        return {
            obj["metadata"]["uid"]: f"{kind.kind} {obj['metadata']['name']}"
            for kind in (*LAUNCHED, POD, CONFIG_MAP)
            for obj in self._counted(self.cluster.list(kind, self.namespace, labels=labels.get(kind, "")))
        }

    def wait_clean(self, seconds: float = 30.0) -> None:
        """Wait until nothing that was launched is left.

        It fails when what is left has not changed for so long although the cluster collects garbage. What one test
        left isn't held against the next ones.
        """
        if self._settled(seconds):
            return
        see_garbage_collected(self.cluster, self.namespace)
        if not self._settled(seconds):
            left = self.left()
            self._given_up |= set(left)
            raise AssertionError(f"left behind: {sorted(left.values())}")

    def _settled(self, seconds: float) -> bool:
        ends, before = time.monotonic() + seconds, set[str]()
        while left := set(self.left()):
            if left != before:
                ends, before = time.monotonic() + seconds, left
            if time.monotonic() > ends:
                return False
            time.sleep(0.2)
        return True

    def _counted(self, found: list[Object]) -> list[Object]:
        return [obj for obj in found if obj["metadata"]["uid"] not in self._given_up]

    def set_status(self, pod: Object, status: Object) -> None:
        """Say what a kubelet would say of a pod."""
        path = self.cluster.path(POD, self.namespace, pod["metadata"]["name"]) + "/status"
        self.cluster.request(
            "PATCH", path, body={"status": status}, content="application/merge-patch+json", where="status"
        )

    def end(
        self, pod: Object, code: int = 0, *, reason: str = "", message: str = "", conditions: list[Object] | None = None
    ) -> None:
        """All containers of a pod end."""
        ended = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "message": message,
            "finishedAt": now(),
        }
        statuses = [
            {
                "name": c["name"],
                "image": c["image"],
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"terminated": ended},
            }
            for c in pod["spec"]["containers"]
        ]
        status: Object = {"phase": "Succeeded" if code == 0 else "Failed", "containerStatuses": statuses}
        if conditions:
            status["conditions"] = conditions
        self.set_status(pod, status)

    @contextlib.contextmanager
    def child(self, what: str, run_id: str) -> Iterator[subprocess.Popen[str]]:
        """A step in a process of its own, with a pod of its own; killed if it is still there.

        Args:
            what: ``features``, ``train``, ``tune``, or ``publish``, which is of version 2.
            run_id: name of its run.
        """
        self.make_step_pod(f"step-{run_id}")
        source = self.folder / "usecase.yaml"
        source.write_text(canonical_text(self.usecase))
        given = [source, self.folder, self.account, self.namespace, what, run_id]
        command = [sys.executable, "-m", "tests.cluster.launch_child", *map(str, given)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            try:
                yield process
            finally:
                process.kill()

    def hold_gpus(self, node: str, count: int) -> str:
        """A pod that holds GPUs of a node; its name."""
        gpus = {"nvidia.com/gpu": str(count)}
        container = {"name": "main", "image": "registry.invalid/busy", "securityContext": SECURITY}
        container["resources"] = {"requests": gpus, "limits": gpus}
        meta = {"name": f"busy-{node}", "namespace": self.namespace, "annotations": {HOLD: "true"}}
        meta["labels"] = {STEP: "true"}
        spec = {"containers": [container], "nodeSelector": {"kubernetes.io/hostname": node}}
        spec["tolerations"] = [{"operator": "Exists"}]
        self.cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        return f"busy-{node}"

    def fill(self, pods: int) -> Callable[[], bool]:
        """Let there be so many pods and no more; returns what takes the quota away."""
        quota = Kind("v1", "ResourceQuota")
        meta = {"name": "full", "namespace": self.namespace}
        made = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": {"pods": str(pods)}}}
        self.cluster.apply(made)
        until(lambda: self.cluster.get(quota, "full", self.namespace).get("status", {}).get("hard"))
        return lambda: self.cluster.delete(quota, "full", self.namespace)

    def make_step_pod(self, name: str = "step") -> Object:
        """A pod that stands for a pipeline step's."""
        container = {"name": "main", "image": "registry.invalid/fasttrack/train:1", "securityContext": SECURITY}
        meta = {"name": name, "namespace": self.namespace, "labels": {STEP: "true"}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}}
        return self.cluster.create(pod)


@contextlib.contextmanager
def rig(folder: Path, usecase: UseCase, enforce: str = "restricted") -> Iterator[Rig]:
    """A namespace that enforces pod security, with what a use case's deployment brings; deleted at the end."""
    cluster = connect()
    namespace = f"launch-{uuid.uuid4().hex[:8]}"
    labels = {
        "pod-security.kubernetes.io/enforce": enforce,
        "katib.kubeflow.org/metrics-collector-injection": "enabled",
        "fasttrack.test/of": "launchers",
    }
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    try:
        for obj in deployed(namespace):
            cluster.apply(obj)
        made = Rig(cluster, as_account(cluster, namespace, PIPELINE_ACCOUNT, folder), namespace, folder, usecase)
        see_garbage_collected(cluster, namespace)
        # The controller that binds volumes looks every 15 seconds.
        claim = lambda: cluster.get(PERSISTENT_VOLUME_CLAIM, "fasttrack-data", namespace)  # noqa: E731
        until(lambda: claim().get("status", {}).get("phase") == "Bound", 90)
        made.step_pod = made.make_step_pod()
        yield made
    finally:
        # Some finalizers take a while; the namespace's name is never used again.
        cluster.delete(NAMESPACE, namespace)


def see_garbage_collected(cluster: Cluster, namespace: str) -> None:
    """Wait until the cluster removes what belonged to something that is gone.

    Whoever does that needs up to a minute after its API server was restarted, and nothing is told before.
    """
    name = f"seen-{uuid.uuid4().hex[:6]}"
    meta = {"name": name, "namespace": namespace}
    owner = cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": owner["metadata"]["uid"]}
    owned = {"name": f"{name}-owned", "namespace": namespace, "ownerReferences": [reference]}
    cluster.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": owned})
    cluster.delete(CONFIG_MAP, name, namespace, foreground=False)
    cluster.wait_gone(CONFIG_MAP, owned["name"], namespace, 240.0)
