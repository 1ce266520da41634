"""Spark operator 2.5's webhooks (internal/webhook/*_validator.go), and what makes a submission fail later."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fasttrack.kubeflow.rules.core import Object, dig, name_problem
from fasttrack.kubeflow.schemas.structural import Problem

_CONTAINERS = {"driver": "spark-kubernetes-driver", "executor": "spark-kubernetes-executor"}
_CRON_FIELD = re.compile(r"[0-9A-Za-z*/,?L#-]+")
_MEMORY = re.compile(r"\d+(\.\d+)?([kmgtp]b?|[KMGTP]i?)?", re.IGNORECASE)
# Pods, Services and labels are named `<name>-<hash>-driver-svc` and the like.
_NAME_LIMIT = 48
# A scheduled run is `<name>-<nanoseconds>`; its own Services cut that by themselves, its label can't hold more.
_SCHEDULED_LIMIT = 42


def application_problems(document: Object) -> Iterator[Problem]:
    """Problems of a SparkApplication."""
    yield from name_problem(document, _NAME_LIMIT, "as Spark puts more behind it for pods and Services")
    yield from _spec(document.get("spec") or {}, "spec")


def scheduled_problems(document: Object) -> Iterator[Problem]:
    """Problems of a ScheduledSparkApplication."""
    yield from name_problem(document, _SCHEDULED_LIMIT, "as each run puts its time behind it")
    schedule = str(dig(document, "spec", "schedule") or "")
    fields = schedule.split()
    if not schedule.startswith("@") and (len(fields) != 5 or not all(map(_CRON_FIELD.fullmatch, fields))):
        yield Problem("spec.schedule", f"{schedule!r} is not a schedule of five fields.")
    yield from _spec(dig(document, "spec", "template") or {}, "spec.template")


def _spec(spec: Object, path: str) -> Iterator[Problem]:
    if spec.get("nodeSelector") is not None and any(
        dig(spec, role, "nodeSelector") is not None for role in ("driver", "executor")
    ):
        yield Problem(f"{path}.nodeSelector", "can't be given for the application and for driver or executor too.")
    if not spec.get("image") and not all(dig(spec, role, "image") for role in _CONTAINERS):
        yield Problem(f"{path}.image", "is required.")
    if not spec.get("mainApplicationFile"):
        yield Problem(f"{path}.mainApplicationFile", "is required.")
    yield from _ingress(spec.get("driverIngressOptions") or (), f"{path}.driverIngressOptions")
    yield from _allocation(spec.get("dynamicAllocation") or {}, f"{path}.dynamicAllocation")
    if not dig(spec, "driver", "serviceAccount"):
        yield Problem(f"{path}.driver.serviceAccount", "is required: the driver asks the API server for executors.")
    for role, container in _CONTAINERS.items():
        yield from _role(spec, role, container, f"{path}.{role}")


def _ingress(options: Any, path: str) -> Iterator[Problem]:
    ports = [dig(option, "servicePort") for option in options]
    formats = [dig(option, "ingressURLFormat") for option in options]
    if None in ports or not all(formats):
        yield Problem(path, "servicePort and ingressURLFormat are required.")
    if len(set(ports)) < len(ports) or len(set(formats)) < len(formats):
        yield Problem(path, "a servicePort or ingressURLFormat is there twice.")


def _allocation(found: Object, path: str) -> Iterator[Problem]:
    least, most = int(found.get("minExecutors", 0)), found.get("maxExecutors")
    first = int(found.get("initialExecutors", least))
    if isinstance(most, int) and not least <= first <= most:
        yield Problem(path, f"minExecutors {least}, initialExecutors {first} and maxExecutors {most} are out of order.")
    if found.get("enabled") and found.get("shuffleTrackingEnabled") is False:
        yield Problem(f"{path}.shuffleTrackingEnabled", "is needed: there is no shuffle service on Kubernetes.")


def _role(spec: Object, role: str, container: str, path: str) -> Iterator[Problem]:
    found = spec.get(role) or {}
    for name in ("memory", "memoryOverhead"):
        if name in found and not _MEMORY.fullmatch(str(found[name])):
            yield Problem(f"{path}.{name}", f"{found[name]!r} is not a size, such as 2g.")
    if (template := found.get("template")) is not None:
        names = [dig(one, "name") for one in dig(template, "spec", "containers") or ()]
        if container not in names:
            yield Problem(f"{path}.template.spec.containers", f"has no container called {container}.")
