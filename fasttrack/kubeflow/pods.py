"""What the pods of all parts share: labels, volumes, settings, and the security that a `restricted` namespace wants."""

from __future__ import annotations

from typing import Any

from fasttrack.kubeflow.names import label_value, usecase_object
from fasttrack.usecase import UseCase

Object = dict[str, Any]

NAMESPACE = "fasttrack"

#: ConfigMap and Secret with the FASTTRACK_* variables.
SETTINGS = "fasttrack-settings"
SECRETS = "fasttrack-secrets"
SIGNING_KEY = "fasttrack-signing-key"
VERIFY_KEY = "fasttrack-verify-key"

#: The claim that holds lake, packages and runs, and where pods see it.
DATA = "fasttrack-data"
DATA_PATH = "/var/lib/fasttrack"
SIGNING_PATH = "/var/run/fasttrack/keys/signing"
VERIFY_PATH = "/var/run/fasttrack/keys/verify"
#: Where the use case's file lies in pods that want one.
USECASE_PATH = "/etc/fasttrack/usecase"
USECASE_FILE = "usecase.yaml"

USER = 65532

PIPELINE_ACCOUNT = "fasttrack-pipeline"
SPARK_ACCOUNT = "fasttrack-spark"
INGEST_ACCOUNT = "fasttrack-ingest"
TRAINING_ACCOUNT = "fasttrack-training"
SERVING_ACCOUNT = "fasttrack-serving"

GPU = "nvidia.com/gpu"
#: GPU nodes are commonly tainted, so that nothing else lands on them.
GPU_TOLERATIONS: list[Object] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
#: What makes a pod compute on the GPU that it holds (`fasttrack.models.device`).
ON_GPU: Object = {"name": "FASTTRACK_DEVICE", "value": "cuda"}

MANAGER = "fasttrack"
USECASE_LABEL = "fasttrack.ai/usecase"
RUN_LABEL = "fasttrack.ai/run"


def labels(component: str, usecase: UseCase | None = None, run_id: str = "") -> dict[str, str]:
    """The labels of an object: of a use case, or shared by all of them."""
    found = {
        "app.kubernetes.io/name": usecase.name if usecase else component,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "fasttrack",
        "app.kubernetes.io/managed-by": MANAGER,
    }
    if usecase:
        found[USECASE_LABEL] = usecase.name
    if run_id:
        found[RUN_LABEL] = label_value(run_id)
    return found


def metadata(name: str, namespace: str, component: str, usecase: UseCase | None = None, run_id: str = "") -> Object:
    """The ``metadata`` of an object."""
    return {"name": name, "namespace": namespace, "labels": labels(component, usecase, run_id)}


def pod_security() -> Object:
    """The pod's half of what `restricted` wants; the group lets the pod write to its volumes."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        # A claim with years of data isn't walked through at each start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Object:
    """The container's half."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": USER,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def data_volume() -> Object:
    """The volume of lake, packages and runs."""
    return {"name": "data", "persistentVolumeClaim": {"claimName": DATA}}


def usecase_volume(usecase: UseCase) -> Object:
    """The volume that holds the use case's file."""
    return {"name": "usecase", "configMap": {"name": usecase_object(usecase)}}


def verify_volume() -> Object:
    """The volume of the public key that packages are verified with."""
    return {"name": "verify-key", "secret": {"secretName": VERIFY_KEY}}


def scratch_volume(name: str = "tmp", size: str = "") -> Object:
    """A volume that ends with its pod: the root file system is read-only."""
    return {"name": name, "emptyDir": {"sizeLimit": size} if size else {}}


def mount(name: str, path: str, *, read_only: bool = False, sub_path: str = "") -> Object:
    """A volume's mount."""
    found: Object = {"name": name, "mountPath": path}
    if read_only:
        found["readOnly"] = True
    if sub_path:
        found["subPath"] = sub_path
    return found


def settings_from() -> list[Object]:
    """All plain settings as variables; no secret is among them."""
    return [{"configMapRef": {"name": SETTINGS}}]


def secret_variable(name: str) -> Object:
    """One variable out of the Secret."""
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRETS, "key": name}}}
