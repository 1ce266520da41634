"""What Kubernetes wants of a Deployment, which has no CRD to look it up in, and Strimzi of a KafkaConnector."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fasttrack.errors import ConfigurationError
from fasttrack.kubeflow.quantities import quantity
from fasttrack.kubeflow.rules.core import Object, dig, label_problems, name_problem
from fasttrack.kubeflow.rules.platform import cluster_problems
from fasttrack.kubeflow.schemas.structural import Problem

_ENVIRONMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME_LIMIT = 63


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Selector(_Part):
    matchLabels: dict[str, str] = Field(min_length=1)


class _Strategy(_Part):
    type: Literal["Recreate", "RollingUpdate"]


class _Port(_Part):
    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$")
    containerPort: int = Field(gt=0, lt=65536)


class _Get(_Part):
    path: str
    port: str | int


class _Probe(_Part):
    httpGet: _Get
    periodSeconds: int = Field(10, ge=1)
    timeoutSeconds: int = Field(1, ge=1)
    failureThreshold: int = Field(3, ge=1)


class _Container(_Part):
    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    image: str = Field(min_length=1)
    args: list[str] = []
    env: list[dict[str, Any]] = []
    envFrom: list[dict[str, Any]] = []
    ports: list[_Port] = []
    startupProbe: _Probe
    livenessProbe: _Probe
    readinessProbe: _Probe
    resources: dict[str, dict[str, str]]
    securityContext: dict[str, Any]
    volumeMounts: list[dict[str, Any]] = []


class _Pod(_Part):
    serviceAccountName: str
    automountServiceAccountToken: bool
    terminationGracePeriodSeconds: int = Field(30, ge=0)
    securityContext: dict[str, Any]
    containers: list[_Container] = Field(min_length=1)
    volumes: list[dict[str, Any]] = []


class _Metadata(_Part):
    labels: dict[str, str]
    annotations: dict[str, str] = {}


class _Template(_Part):
    metadata: _Metadata
    spec: _Pod


class _Deployment(_Part):
    replicas: int = Field(1, ge=0)
    strategy: _Strategy
    revisionHistoryLimit: int = Field(10, ge=0)
    selector: _Selector
    template: _Template


def deployment_problems(document: Object) -> Iterator[Problem]:
    """Problems of a Deployment as `fasttrack compile` writes one."""
    yield from name_problem(document, _NAME_LIMIT, "as its pods' names begin with it")
    try:
        spec = _Deployment.model_validate(document.get("spec"))
    except ValidationError as error:
        for found in error.errors():
            yield Problem(".".join(["spec", *map(str, found["loc"])]), found["msg"])
        return
    labels = spec.template.metadata.labels
    yield from label_problems(labels, "spec.template.metadata.labels")
    if not spec.selector.matchLabels.items() <= labels.items():
        yield Problem("spec.selector", "doesn't match the labels of the pods.")
    volumes = {volume.get("name") for volume in spec.template.spec.volumes}
    for position, container in enumerate(spec.template.spec.containers):
        yield from _container_problems(container, volumes, f"spec.template.spec.containers[{position}]")


def _container_problems(container: _Container, volumes: set[Any], path: str) -> Iterator[Problem]:
    ports = {port.name for port in container.ports}
    for probe in (container.startupProbe, container.livenessProbe, container.readinessProbe):
        if isinstance(probe.httpGet.port, str) and probe.httpGet.port not in ports:
            yield Problem(path, f"a probe asks port {probe.httpGet.port!r}, which the container has not.")
    for mount in container.volumeMounts:
        if mount.get("name") not in volumes:
            yield Problem(f"{path}.volumeMounts", f"there is no volume {mount.get('name')!r}.")
    for variable in container.env:
        if not _ENVIRONMENT.fullmatch(str(variable.get("name"))):
            yield Problem(f"{path}.env", f"{variable.get('name')!r} is not a variable.")
    for kind, amounts in container.resources.items():
        for resource, amount in amounts.items():
            try:
                quantity(amount)
            except ConfigurationError as error:
                yield Problem(f"{path}.resources.{kind}.{resource}", error.what)


def connector_problems(document: Object) -> Iterator[Problem]:
    """Problems of a KafkaConnector: what its schema leaves open."""
    yield from cluster_problems(document)
    if not dig(document, "spec", "class"):
        yield Problem("spec.class", "is required.")
    config = dig(document, "spec", "config") or {}
    for key in ("connector.class", "tasks.max", "name"):
        if key in config:
            yield Problem(f"spec.config.{key}", "is Strimzi's to set.")
    for key, value in config.items():
        if "password" in key and not str(value).startswith("${"):
            yield Problem(f"spec.config.{key}", "a secret stands in the object; refer to a variable.")
    names = [name for name in str(config.get("transforms", "")).split(",") if name]
    for name in names:
        if f"transforms.{name}.type" not in config:
            yield Problem("spec.config.transforms", f"transform {name!r} has no type.")
