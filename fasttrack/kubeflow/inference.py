"""A model version in service: the InferenceService of a use case (KServe 0.20, Standard mode) and its ServingRuntime.

Predictor and transformer share a pod (KServe's collocation), or with ``serving.in_process`` even a process: encoded
tensors never cross the network, both scale together, and a canary of the predictor brings its own transformer.
Explanations cost a hundred times a prediction, so the explainer scales by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.images import image
from fasttrack.kubeflow.pods import Object
from fasttrack.kubeflow.scaling import Scaling, fewer, scaled
from fasttrack.serving.flags import IN_PROCESS
from fasttrack.usecase import UseCase

API = "serving.kserve.io/v1beta1"
RUNTIME = "fasttrack-predictor"
#: What KServe calls the container of a server.
SERVER = "kserve-container"
#: The package of an InferenceService that nothing was trained for yet.
NO_DIGEST = "sha256:" + "0" * 64

_MODELS = "/mnt/models"


@dataclass(frozen=True)
class Canary:
    """Another version beside the served one, in a Deployment and a Service ``<use case>-v<version>-predictor``.

    Attributes:
        version: the registry's version.
        digest: its package's digest.
        storage_uri: its package.
        percent: share of the requests, 0 to 100, as the object says; KServe 0.20.0 itself sends none there.
    """

    version: int
    digest: str
    storage_uri: str
    percent: int


def storage_uri(usecase: UseCase, digest: str) -> str:
    """Where a package lies on the shared volume, as KServe writes it."""
    return f"pvc://{pods.DATA}/packages/{usecase.name}/{digest.replace(':', '-')}"


def inference_service(
    usecase: UseCase,
    *,
    registry: str,
    namespace: str,
    version: int,
    digest: str,
    storage_uri: str,
    gpus: bool = False,
    scaling: Scaling | None = None,
    canary: Canary | None = None,
    stopped: bool = False,
    name: str = "",
) -> Object:
    """The servers of one version: predictor with transformer, and explainer.

    Args:
        usecase: the use case; its ConfigMap must be there.
        registry: what stands before the images.
        namespace: the namespace of the object; the ServingRuntime must be there.
        version: the registry's version, shown in every answer.
        digest: the package's digest; the servers refuse any other.
        storage_uri: the package, ``pvc://CLAIM/PATH`` or an object store's.
        gpus: run the predictor on a GPU; not where the use case asks for int8, which CPUs compute.
        scaling: how far pods may scale.
        canary: another version beside it.
        stopped: make the object without starting pods.
        name: of the object, where it isn't the use case's: a challenger beside the version that is served.
    """
    scaling = scaling or Scaling()
    variant = usecase.serving.variant
    on_gpu = gpus and (variant is None or variant.quantization is None)
    made = _Servers(usecase, registry, on_gpu, name or usecase.name)
    annotations = {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": scaling.autoscaler,
    }
    if stopped:
        annotations["serving.kserve.io/stop"] = "true"
    spec: Object = {
        "predictor": {
            **made.predictor(version, digest, storage_uri),
            **scaled(usecase, namespace, scaling, "predictor"),
        },
        "explainer": {
            **made.explainer(version, digest, storage_uri),
            **scaled(usecase, namespace, fewer(scaling), "explainer"),
        },
    }
    if canary is not None:
        # A canary has a fixed number of pods: KServe refuses to scale it.
        predictor = made.predictor(canary.version, canary.digest, canary.storage_uri)
        predictor |= {"name": f"v{canary.version}", "minReplicas": 1}
        # KServe's schema wants this name in a canary, and its webhook refuses it elsewhere.
        predictor["model"]["name"] = SERVER
        spec["canary"] = [{"predictor": predictor, "trafficPercent": canary.percent}]
    metadata = pods.metadata(name or usecase.name, namespace, "serving", usecase)
    return {
        "apiVersion": API,
        "kind": "InferenceService",
        "metadata": {**metadata, "annotations": annotations},
        "spec": spec,
    }


def serving_runtime(*, registry: str, namespace: str) -> Object:
    """The runtime of all predictors: what serves the model format ``fasttrack``."""
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": pods.metadata(RUNTIME, namespace, "predictor"),
        "spec": {
            "annotations": {"prometheus.kserve.io/path": "/metrics", "prometheus.kserve.io/port": "8080"},
            "supportedModelFormats": [{"name": "fasttrack", "version": "1", "autoSelect": True, "priority": 1}],
            "protocolVersions": ["v2", "grpc-v2"],
            "multiModel": False,
            "containers": [
                {
                    **_container(SERVER, image(registry, "predictor"), 8080, "model"),
                    "args": [
                        "--model_name={{.Name}}",
                        f"--package={_MODELS}",
                        "--http_port=8080",
                        "--grpc_port=0",
                    ],
                    "env": [*_environment(), {"name": "OMP_NUM_THREADS", "value": "1"}],
                    "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
                    "volumeMounts": _mounts(usecase=False),
                }
            ],
            "volumes": [pods.verify_volume(), pods.scratch_volume()],
        },
    }


@dataclass(frozen=True)
class _Servers:
    """The specs of one use case's pods."""

    usecase: UseCase
    registry: str
    gpus: bool
    name: str

    def predictor(self, version: int, digest: str, uri: str) -> Object:
        model: Object = {
            "modelFormat": {"name": "fasttrack", "version": "1"},
            "runtime": RUNTIME,
            "protocolVersion": "v2",
            "storageUri": uri,
            "args": _identity(version, digest),
        }
        if self.name != self.usecase.name:
            # The runtime says the object's name; what comes later counts.
            model["args"].append(f"--model_name={self.usecase.name}")
        found: Object = {"model": model, **self._pod("predictor")}
        if self.usecase.serving.in_process:
            self._with_transformer(model)
        else:
            found["containers"] = [self._transformer(version, digest)]
        if self.gpus:
            model["resources"] = {
                "requests": {"cpu": "1", "memory": "4Gi", pods.GPU: "1"},
                "limits": {"memory": "8Gi", pods.GPU: "1"},
            }
            model["env"] = [*model.get("env", []), pods.ON_GPU]
            found["tolerations"] = pods.GPU_TOLERATIONS
        return found

    def _with_transformer(self, model: Object) -> None:
        """Let the runtime's container be a transformer that has the model itself; its arguments come last and count."""
        model["image"] = image(self.registry, "transformer")
        model["args"] += [*self._common(8080), f"--predictor_protocol={IN_PROCESS}", "--grpc_port=8081"]
        model["env"] = self._online_environment()
        model["volumeMounts"] = _mounts(usecase=True)

    def explainer(self, version: int, digest: str, uri: str) -> Object:
        container = {
            **_container(SERVER, image(self.registry, "explainer"), 8080, "http1"),
            "args": [*self._common(8080), "--grpc_port=0", *_identity(version, digest)],
            # KServe mounts the package where this variable is.
            "env": [{"name": "STORAGE_URI", "value": uri}, *self._online_environment()],
            "resources": {"requests": {"cpu": "500m", "memory": "1536Mi"}, "limits": {"memory": "3Gi"}},
            "volumeMounts": _mounts(usecase=True),
        }
        return {"containers": [container], **self._pod("explainer")}

    def _transformer(self, version: int, digest: str) -> Object:
        return {
            **_container("transformer-container", image(self.registry, "transformer"), 8090, "http1"),
            "args": [
                *self._common(8090),
                "--grpc_port=8091",
                "--predictor_host=127.0.0.1:8080",
                "--predictor_protocol=v2",
                *_identity(version, digest),
            ],
            "env": self._online_environment(),
            # The first one is the Service's port 80.
            "ports": [
                {"name": "http1", "containerPort": 8090, "protocol": "TCP"},
                {"name": "grpc", "containerPort": 8091, "protocol": "TCP"},
            ],
            "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
            "volumeMounts": _mounts(usecase=True),
        }

    def _common(self, port: int) -> list[str]:
        return [
            f"--model_name={self.usecase.name}",
            f"--package={_MODELS}",
            f"--usecase={pods.USECASE_PATH}/{pods.USECASE_FILE}",
            f"--http_port={port}",
        ]

    def _online_environment(self) -> list[Object]:
        # numba writes its compiled code beside its sources, which are read-only here.
        return [*_environment(), pods.secret_variable("FASTTRACK_REDIS"), {"name": "NUMBA_CACHE_DIR", "value": "/tmp"}]  # noqa: S108

    def _pod(self, component: str) -> Object:
        grace = round(self.usecase.serving.service_level.deadline.total_seconds()) + 35
        spread = {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"serving.kserve.io/inferenceservice": self.name, "component": component}},
        }
        return {
            "serviceAccountName": pods.SERVING_ACCOUNT,
            "automountServiceAccountToken": False,
            "securityContext": pods.pod_security(),
            "terminationGracePeriodSeconds": grace,
            "topologySpreadConstraints": [spread],
            "deploymentStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "volumes": [pods.verify_volume(), pods.scratch_volume(), pods.usecase_volume(self.usecase)],
        }


def _identity(version: int, digest: str) -> list[str]:
    return [f"--model_version={version}", f"--digest={digest}"]


def _environment() -> list[Object]:
    return [
        {"name": "FASTTRACK_BIND", "value": "0.0.0.0"},  # noqa: S104 - a pod's own address
        {"name": "FASTTRACK_VERIFY_KEY", "value": f"{pods.VERIFY_PATH}/verify.pem"},
    ]


def _mounts(*, usecase: bool) -> list[Object]:
    found = [pods.mount("verify-key", pods.VERIFY_PATH, read_only=True), pods.mount("tmp", "/tmp")]  # noqa: S108
    return [*found, pods.mount("usecase", pods.USECASE_PATH, read_only=True)] if usecase else found


def _container(name: str, image_name: str, port: int, port_name: str) -> Object:
    """What all servers share: probes, an orderly end, security."""
    alive = {"path": "/v2/health/live", "port": port}
    return {
        "name": name,
        "image": image_name,
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": port_name, "containerPort": port, "protocol": "TCP"}],
        "startupProbe": {"httpGet": alive, "periodSeconds": 2, "failureThreshold": 60},
        "readinessProbe": {"httpGet": {"path": "/v2/health/ready", "port": port}, "periodSeconds": 2},
        "livenessProbe": {"httpGet": alive, "periodSeconds": 10, "failureThreshold": 6},
        # Endpoints are removed while the pod is told to stop: requests that are still sent here must find it.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "5"]}}},
        "securityContext": pods.container_security(),
    }
