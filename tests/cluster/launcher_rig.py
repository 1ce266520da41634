"""What tests of the launchers need: a namespace with a step's pod, and hands that do what a kubelet would."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fasttrack.kubeflow.cluster.client import Cluster, connect
from fasttrack.kubeflow.cluster.kinds import (
    CONFIG_MAP,
    EXPERIMENT,
    INFERENCE_SERVICE,
    NAMESPACE,
    PERSISTENT_VOLUME_CLAIM,
    POD,
    SPARK_APPLICATION,
    TRAIN_JOB,
    Kind,
    Object,
)
from fasttrack.kubeflow.inference import serving_runtime
from fasttrack.kubeflow.launchers.place import Limits, Place, owner_reference
from fasttrack.kubeflow.trainjob import training_runtime
from fasttrack.settings import Settings
from fasttrack.steps.frame import Step
from fasttrack.usecase import UseCase

HOLD = "fasttrack.test/hold"
JOB = Kind("batch/v1", "Job")
JOB_SET = Kind("jobset.x-k8s.io/v1alpha2", "JobSet")
ACCOUNTS = ("fasttrack-pipeline", "fasttrack-spark", "fasttrack-training", "fasttrack-serving")
#: Everything that a step might leave behind.
LAUNCHED = (TRAIN_JOB, SPARK_APPLICATION, EXPERIMENT, INFERENCE_SERVICE, JOB_SET, JOB)
SECURITY = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
T = Any


@dataclass
class Rig:
    """A namespace of its own."""

    cluster: Cluster
    namespace: str
    folder: Path
    usecase: UseCase
    step_pod: Object = field(default_factory=dict)

    def place(self, **limits: Any) -> Place:
        """The place of a step in this namespace, with limits for tests."""
        given = {"features": 60.0, "train": 60.0, "tune": 90.0, "publish": 60.0, "stuck": 6.0, "pending": 6.0, **limits}
        return Place(
            self.cluster, self.namespace, "registry.invalid", owner_reference(self.step_pod), limits=Limits(**given)
        )

    def step(self, name: str, run_id: str = "run-1") -> Step:
        """What a step has at hand."""
        settings = Settings(runs=str(self.folder / "runs"), lake=str(self.folder / "lake"))
        folder = self.folder / "runs" / self.usecase.name / run_id
        folder.mkdir(parents=True, exist_ok=True)
        return Step(name, self.usecase, settings, run_id, {}, folder)

    def pods(self, labels: str) -> list[Object]:
        """The pods with these labels that are not being deleted."""
        found = self.cluster.list(POD, self.namespace, labels=labels)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def left(self) -> list[str]:
        """What was launched and is still there; pods of steps and ConfigMaps that were there before are left out."""
        found = [
            f"{kind.kind} {obj['metadata']['name']}"
            for kind in LAUNCHED
            for obj in self.cluster.list(kind, self.namespace)
        ]
        pods = [
            pod
            for pod in self.cluster.list(POD, self.namespace)
            if "fasttrack.test/step" not in pod["metadata"].get("labels", {})
        ]
        maps = self.cluster.list(CONFIG_MAP, self.namespace, labels="fasttrack.ai/run")
        return (
            found
            + [f"Pod {pod['metadata']['name']}" for pod in pods]
            + [f"ConfigMap {m['metadata']['name']}" for m in maps]
        )

    def wait_clean(self, seconds: float = 30.0) -> None:
        """Wait until nothing that was launched is left."""
        until(lambda: not self.left(), seconds, lambda: f"left behind: {self.left()}")

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

    def hold_gpus(self, node: str, count: int) -> str:
        """A pod that holds GPUs of a node; its name."""
        gpus = {"nvidia.com/gpu": str(count)}
        container = {"name": "main", "image": "registry.invalid/busy", "securityContext": SECURITY}
        container["resources"] = {"requests": gpus, "limits": gpus}
        meta = {"name": f"busy-{node}", "namespace": self.namespace, "annotations": {HOLD: "true"}}
        meta["labels"] = {"fasttrack.test/step": "true"}
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
        meta = {"name": name, "namespace": self.namespace, "labels": {"fasttrack.test/step": "true"}}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}}
        return self.cluster.create(pod)


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
        made = Rig(cluster, namespace, folder, usecase)
        for obj in _deployed(namespace):
            cluster.apply(obj)
        # The controller that binds volumes looks every 15 seconds.
        claim = lambda: cluster.get(PERSISTENT_VOLUME_CLAIM, "fasttrack-data", namespace)  # noqa: E731
        until(lambda: claim().get("status", {}).get("phase") == "Bound", 90)
        made.step_pod = made.make_step_pod()
        yield made
    finally:
        # Some finalizers take a while; the namespace's name is never used again.
        cluster.delete(NAMESPACE, namespace)


def _deployed(namespace: str) -> Iterator[Object]:
    for account in ACCOUNTS:
        yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}}
    settings = {"name": "fasttrack-settings", "namespace": namespace}
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": settings, "data": {}}
    claim = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Gi"}},
        "volumeName": f"{namespace}-data",
    }
    claim |= {"storageClassName": ""}
    volume = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteMany"],
        "hostPath": {"path": "/none"},
        "persistentVolumeReclaimPolicy": "Retain",
        "claimRef": {"namespace": namespace, "name": "fasttrack-data"},
    }
    yield {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{namespace}-data"}, "spec": volume}
    yield {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "fasttrack-data", "namespace": namespace},
        "spec": claim,
    }
    for gpus in (False, True):
        runtime = training_runtime(image="registry.invalid/fasttrack/trainer:1", namespace=namespace, gpus=gpus)
        # The test ends pods itself, and what fails is not started again.
        runtime["spec"]["template"]["spec"].pop("failurePolicy", None)
        for job in runtime["spec"]["template"]["spec"]["replicatedJobs"]:
            job["template"]["spec"]["backoffLimit"] = 0
            job["template"]["spec"]["template"].setdefault("metadata", {})["annotations"] = {HOLD: "true"}
        yield runtime
    yield serving_runtime(registry="registry.invalid", namespace=namespace)
