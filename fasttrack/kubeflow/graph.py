"""One address inside the cluster for predictions and explanations, for callers that need no gateway (batch jobs)."""

from __future__ import annotations

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.names import object_name
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase


def inference_graph(usecase: UseCase, *, namespace: str, service_namespace: str) -> Object:
    """An InferenceGraph that sends a body with ``instances`` to the explainer and one with ``inputs`` to the predictor.

    KServe's router pod names no seccomp profile, so a `restricted` namespace refuses it: the graph lives in another
    one. There is no splitter here: KServe's draws lots for each request, and sticky arms are the gateway's work.

    Args:
        usecase: the use case.
        namespace: the namespace of the graph.
        service_namespace: the namespace of the InferenceService.
    """
    name = usecase.name
    explain = f"http://{name}-explainer.{service_namespace}.svc.cluster.local/v1/models/{name}:explain"
    predict = f"http://{name}-predictor.{service_namespace}.svc.cluster.local/v2/models/{name}/infer"
    steps = [
        {"name": "explain", "serviceUrl": explain, "condition": "instances"},
        {"name": "predict", "serviceUrl": predict, "condition": "inputs"},
    ]
    deadline = round(usecase.serving.service_level.deadline.total_seconds())
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "InferenceGraph",
        "metadata": {
            **pods.metadata(object_name(f"{name}-any", 42), namespace, "serving", usecase),
            "annotations": {"serving.kserve.io/deploymentMode": "Standard"},
        },
        "spec": {
            "nodes": {"root": {"routerType": "Switch", "steps": steps}},
            "timeout": max(1, deadline),
            "minReplicas": 1,
            "maxReplicas": 2,
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        },
    }
