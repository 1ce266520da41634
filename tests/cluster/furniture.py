"""What a use case's deployment brings into a namespace, as tests of the launchers want it."""

from __future__ import annotations

from collections.abc import Iterator

from fasttrack.kubeflow.cluster.kinds import Object
from fasttrack.kubeflow.inference import serving_runtime
from fasttrack.kubeflow.pods import PIPELINE_ACCOUNT
from fasttrack.kubeflow.trainjob import training_runtime
from tests.cluster.identity import of_base

#: Has the simulated kubelet let a pod run until a test ends it.
HOLD = "fasttrack.test/hold"
ACCOUNTS = (PIPELINE_ACCOUNT, "fasttrack-spark", "fasttrack-training", "fasttrack-serving")


def deployed(namespace: str) -> Iterator[Object]:
    """Accounts, the pipeline's Role, settings, a claim with its volume, and runtimes whose pods a test ends itself."""
    for account in ACCOUNTS:
        yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}}
    yield from of_base("rbac-pipeline.yaml", namespace)
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
