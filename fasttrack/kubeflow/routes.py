"""How callers reach the use case: its routes to the gateway, and the roles that the gateway asks of them."""

from __future__ import annotations

from typing import Any, Final

import yaml

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.pods import Object
from fasttrack.usecase import UseCase, dump
from fasttrack.usecase.sources import WebhookSource

API = "gateway.networking.k8s.io/v1"
#: The Service of the API gateway, and its port.
SERVICE = "gateway"
PORT = 80
#: A webhook's body may come for 20 s, and its events are confirmed within 10 s (api_gateway/options.py).
_WEBHOOK_TIMEOUT = "31s"
_LIMITS: Final = ("rate_limit", "tenant_quota", "query_budget", "service_level", "cache")


def http_route(
    usecase: UseCase, *, namespace: str, gateway: str, gateway_namespace: str = "", hostname: str = ""
) -> Object:
    """The HTTPRoute of a use case: its two paths lead to the API gateway, for as long as the use case waits.

    Webhooks, where it has any, wait for Kafka rather than for the model.

    Args:
        usecase: the use case.
        namespace: the namespace of the object.
        gateway: name of the Gateway (Gateway API) that callers come through.
        gateway_namespace: its namespace, if it is another one.
        hostname: answer only to this name.
    """
    parent: dict[str, Any] = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": gateway}
    if gateway_namespace:
        parent["namespace"] = gateway_namespace
    deadline = usecase.serving.service_level.deadline.total_seconds()
    # The gateway gives up by itself; the proxy only has to wait that long.
    rules = [_rule(f"{round(deadline * 1000) + 1000}ms", f"/v1/usecases/{usecase.name}", f"/v2/models/{usecase.name}")]
    if any(isinstance(source, WebhookSource) for source in usecase.sources.values()):
        rules.append(_rule(_WEBHOOK_TIMEOUT, f"/v1/usecases/{usecase.name}/webhooks"))
    spec: Object = {"parentRefs": [parent], "rules": rules}
    if hostname:
        spec["hostnames"] = [hostname]
    metadata = pods.metadata(usecase.name, namespace, "gateway", usecase)
    return {"apiVersion": API, "kind": "HTTPRoute", "metadata": metadata, "spec": spec}


def _rule(timeout: str, *paths: str) -> Object:
    return {
        "matches": [{"path": {"type": "PathPrefix", "value": path}} for path in paths],
        "backendRefs": [{"group": "", "kind": "Service", "name": SERVICE, "port": PORT, "weight": 1}],
        "timeouts": {"request": timeout},
    }


def role_configuration(usecase: UseCase, *, namespace: str) -> Object:
    """The ConfigMap that tells who may do what, and the limits, for identity providers and reviewers.

    The gateway itself takes them from the use case that was registered with the model in service.
    """
    document = dump(usecase)
    roles = {name: sorted(role["may"]) for name, role in document["roles"].items()}
    data = {
        "roles.yaml": _text(roles),
        "limits.yaml": _text({name: document["serving"][name] for name in _LIMITS if name in document["serving"]}),
    }
    metadata = pods.metadata(f"{usecase.name}-roles", namespace, "gateway", usecase)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _text(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=True, allow_unicode=True, width=120)
