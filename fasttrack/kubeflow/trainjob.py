"""The train step as a TrainJob of Kubeflow Trainer v2, and the runtimes that it refers to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.names import object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase

API = "trainer.kubeflow.org/v1alpha1"
GROUP = "trainer.kubeflow.org"
RUNTIME = "fasttrack-torch"
GPU_RUNTIME = "fasttrack-torch-gpu"
#: What the Trainer calls the replicated job and its container.
NODE = "node"

# JobSet makes pods `<name>-node-0-<index>-<5 characters>` of it.
NAME_LIMIT = 45

_CPU = {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}
_WITH_GPU = {
    "requests": {"cpu": "4", "memory": "16Gi", pods.GPU: "1"},
    "limits": {"memory": "32Gi", pods.GPU: "1"},
}


def runtime_name(gpus: bool) -> str:
    """The name of the runtime with or without GPUs."""
    return GPU_RUNTIME if gpus else RUNTIME


def resources(gpus: bool) -> Object:
    """What one node asks for. Without a GPU the Trainer starts as many processes a node as it asks for whole CPUs."""
    found = _WITH_GPU if gpus else _CPU
    return {kind: dict(values) for kind, values in found.items()}


def training_runtime(*, image: str, namespace: str, gpus: bool) -> Object:
    """The namespaced runtime of all TrainJobs and trials: torchrun over gloo, or over NCCL on nodes with GPUs.

    Args:
        image: image that a TrainJob may override.
        namespace: the namespace of the object.
        gpus: for nodes with GPUs.
    """
    name = runtime_name(gpus)
    job = {
        "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
        "spec": {
            "backoffLimit": 0,
            "template": {"metadata": {"labels": pods.labels("training")}, "spec": _pod(image, gpus)},
        },
    }
    return {
        "apiVersion": API,
        "kind": "TrainingRuntime",
        "metadata": {
            **pods.metadata(name, namespace, "training"),
            "labels": {**pods.labels("training"), "trainer.kubeflow.org/framework": "torch"},
        },
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {
                "spec": {
                    # DDP can't go on without a member: all start again, and go on from the last epoch.
                    "failurePolicy": {"maxRestarts": 2},
                    "replicatedJobs": [{"name": NODE, "template": job}],
                }
            },
        },
    }


def train_job(
    usecase: UseCase,
    *,
    image: str,
    namespace: str,
    name: str,
    features: str,
    architecture: str,
    parameters: Mapping[str, Any],
    out: str,
    gpus: bool = False,
    run_id: str = "",
    suspend: bool = False,
) -> Object:
    """One distributed fit: the worker that torchrun starts on the laptop too, on ``usecase.training.workers`` nodes.

    Args:
        usecase: the use case; its ConfigMap must be there.
        image: image of the nodes.
        namespace: the namespace of the object; the runtimes must be there.
        name: name of the object.
        features: where the feature table lies on the shared volume.
        architecture: candidate to fit.
        parameters: its hyperparameters.
        out: folder for the model files, on the shared volume.
        gpus: run on nodes with GPUs, over NCCL.
        run_id: name of the run that this belongs to.
        suspend: make the object without starting it.
    """
    text = orjson.dumps(dict(parameters), option=orjson.OPT_SORT_KEYS).decode()
    return {
        "apiVersion": API,
        "kind": "TrainJob",
        "metadata": pods.metadata(object_name(name, NAME_LIMIT), namespace, "training", usecase, run_id),
        "spec": {
            "suspend": suspend,
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": runtime_name(gpus)},
            "trainer": {
                "image": image,
                # The Trainer sets PET_*; torchrun reads them.
                "command": ["torchrun"],
                "args": [
                    "-m",
                    "fasttrack.training.worker",
                    f"--usecase={pods.USECASE_PATH}/{pods.USECASE_FILE}",
                    f"--features={features}",
                    f"--architecture={architecture}",
                    f"--parameters={text}",
                    f"--out={out}",
                ],
                "numNodes": usecase.training.workers,
                "numProcPerNode": 1,
                "resourcesPerNode": resources(gpus),
            },
            "runtimePatches": [_usecase_patch(usecase)],
        },
    }


def _usecase_patch(usecase: UseCase) -> Object:
    """Mounts this use case's file: the runtime is shared by all use cases."""
    pod = {
        "containers": [
            {"name": NODE, "volumeMounts": [pods.mount("usecase", pods.USECASE_PATH, read_only=True)]},
        ],
        "volumes": [pods.usecase_volume(usecase)],
    }
    patch = {"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}
    return {
        "manager": "fasttrack.ai/compile",
        "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [patch]}}},
    }


def _pod(image: str, gpus: bool) -> Object:
    mounts = [
        pods.mount("data", pods.DATA_PATH),
        pods.mount("tmp", "/tmp"),  # noqa: S108 - the pod's own
    ]
    volumes = [pods.data_volume(), pods.scratch_volume()]
    environment = [
        {"name": "OMP_NUM_THREADS", "value": "1"},
        {"name": "PYTHONUNBUFFERED", "value": "1"},
        # Libraries that want a home get one: there is none for this user.
        {"name": "HOME", "value": "/tmp"},  # noqa: S108
    ]
    if gpus:
        # Tensors travel between processes and their loaders here; the default of 64 MiB is too little.
        mounts.append(pods.mount("shared-memory", "/dev/shm"))  # noqa: S108
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}})
        environment += [{"name": "NCCL_DEBUG", "value": "WARN"}, pods.ON_GPU]
    pod: Object = {
        "serviceAccountName": pods.TRAINING_ACCOUNT,
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "securityContext": pods.pod_security(),
        "containers": [
            {
                "name": NODE,
                "image": image,
                "envFrom": pods.settings_from(),
                "env": environment,
                "resources": resources(gpus),
                "securityContext": pods.container_security(),
                "volumeMounts": mounts,
            }
        ],
        "volumes": volumes,
    }
    if gpus:
        pod["tolerations"] = pods.GPU_TOLERATIONS
    return pod
