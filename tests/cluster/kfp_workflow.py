"""A Workflow of the form that KFP 2.17 gives a compiled pipeline, and a run as its API tells of that Workflow.

KFP's own server isn't at hand. Read in its source were: how a pipeline's graphs become templates (a driver before each
task, exit tasks as hooks), what its driver puts into the patch of a step's pod, which security contexts its compiler
sets, and that each node of Argo's becomes a task of the API. The form is written anew here; Argo's controller, which
makes the pods, and the API server, which admits them, are real.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import kfp_server_api  # type: ignore[import-untyped]
import yaml

from fasttrack.kubeflow.cluster.kinds import Kind, Object
from tests.cluster.furniture import HOLD

WORKFLOW = Kind("argoproj.io/v1alpha1", "Workflow")
#: What KFP's manifests have Argo give its own containers.
EXECUTOR = {
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
}
_POD = {"seccompProfile": {"type": "RuntimeDefault"}}
_USERS = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, **_POD}
_OWN = {**_USERS, "runAsNonRoot": True}
_SCRATCH = ("/gcs", "/s3", "/minio", "/.local", "/.cache", "/.config")
_DRIVER = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}}
_LAUNCHER = {"requests": {"cpu": "100m"}, "limits": {"cpu": "500m", "memory": "128Mi"}}
_STATES = {"Error": "FAILED", "Omitted": "RUNTIME_STATE_UNSPECIFIED", "": "RUNTIME_STATE_UNSPECIFIED"}


class Pipeline:
    """A compiled pipeline.

    Args:
        package: the text of ``kfp/training.yaml``.
        account: the service account of its runs.
        refused: conditions that aren't met, by the name of their task.
        held: steps whose pods run until a test ends them.
        ordered: nothing starts before what it depends on has succeeded. Argo takes ten seconds for each turn.
    """

    def __init__(
        self,
        package: str,
        account: str,
        *,
        refused: frozenset[str] = frozenset(),
        held: frozenset[str] = frozenset(),
        ordered: bool = True,
    ) -> None:
        self.spec, platform = yaml.safe_load_all(package)
        self.platform = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self.account, self.refused, self.held, self.ordered = account, refused, held, ordered

    def workflow(self, run: str) -> Object:
        """The Workflow of a run; `run` is its id."""
        name = self.spec["pipelineInfo"]["name"]
        return {
            "apiVersion": WORKFLOW.api_version,
            "kind": WORKFLOW.kind,
            "metadata": {"generateName": f"{name}-", "labels": {"pipeline/runid": run}},
            "spec": {
                "entrypoint": "entrypoint",
                "serviceAccountName": self.account,
                "podMetadata": {"labels": {"pipeline/runid": run, "pipelines.kubeflow.org/v2_component": "true"}},
                "securityContext": {"runAsNonRoot": True, **_POD},
                "templates": list(self._templates()),
                # KFP leaves pods where they are; the cluster of the tests has another default.
                "podGC": {"strategy": "OnWorkflowCompletion", "deleteDelayDuration": "1h"},
            },
        }

    def container(self, step: str) -> Object:
        """What a step's container is compiled to."""
        return self.spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]

    def _templates(self) -> Iterator[Object]:
        root = {"name": "root", "template": "root", **self._after("root-driver")}
        yield {"name": "entrypoint", "dag": {"tasks": [{"name": "root-driver", "template": "driver"}, root]}}
        for name, component in {"root": self.spec["root"], **self.spec["components"]}.items():
            if "dag" in component:
                yield from self._graph(name, component["dag"]["tasks"])
        yield _driver()
        for held in (False, True):
            yield _executor(f"executor{_held(held)}", f"impl{_held(held)}")
            yield _pod(f"impl{_held(held)}", {HOLD: "true"} if held else {})

    def _graph(self, name: str, tasks: Object) -> Iterator[Object]:
        exits = {key: each for key, each in tasks.items() if "strategy" in each.get("triggerPolicy", {})}
        hooks = {before: key for key, each in exits.items() for before in each["dependentTasks"]}
        made: list[Object] = []
        for key, each in tasks.items():
            if key not in exits:
                made += self._task(key, each, hooks.get(key, ""))
        yield {"name": name, "dag": {"tasks": made}}
        for key, each in exits.items():
            alone = {**each, "dependentTasks": []}
            yield {"name": f"exit-hook-{key}", "dag": {"tasks": list(self._task(key, alone, ""))}}

    def _after(self, *names: str) -> Object:
        depends = " && ".join(f"{each}.Succeeded" for each in sorted(names))
        return {"depends": depends} if depends and self.ordered else {}

    def _task(self, key: str, task: Object, hook: str) -> Iterator[Object]:
        yield {"name": f"{key}-driver", "template": "driver", **self._after(*task.get("dependentTasks", ()))}
        component = task["componentRef"]["name"]
        executor = self.spec["components"][component].get("executorLabel")
        made: Object = {"name": key, "template": component, **self._after(f"{key}-driver")}
        if executor:
            patch = json.dumps(_patch(self.spec["deploymentSpec"]["executors"][executor], self.platform[executor]))
            made["template"] = f"executor{_held(key in self.held)}"
            made["arguments"] = {"parameters": [{"name": "patch", "value": patch}]}
        if "condition" in task.get("triggerPolicy", {}):
            made["when"] = f"{'false' if key in self.refused else 'true'} != false"
        if hook:
            made["hooks"] = {"exit": {"template": f"exit-hook-{hook}"}}
        yield made


def _held(held: bool) -> str:
    return "-held" if held else ""


def _driver() -> Object:
    container = {"image": "driver", "command": ["driver"], "resources": _DRIVER, "securityContext": _OWN}
    return {"name": "driver", "container": container, "securityContext": {"runAsNonRoot": True, **_POD}}


def _executor(name: str, pod: str) -> Object:
    given = [{"name": "patch", "value": "{{inputs.parameters.patch}}"}]
    task = {"name": "executor", "template": pod, "arguments": {"parameters": given}}
    return {"name": name, "inputs": {"parameters": [{"name": "patch"}]}, "dag": {"tasks": [task]}}


def _pod(name: str, annotations: Object) -> Object:
    launcher = {"name": "kfp-launcher", "mountPath": "/kfp-launcher"}
    volumes = {path.strip("/.") + "-scratch": path for path in _SCRATCH}
    own = {"name": "kfp-launcher", "image": "launcher", "command": ["launcher-v2"], "resources": _LAUNCHER}
    mounts = [launcher, *({"name": volume, "mountPath": path} for volume, path in volumes.items())]
    users = {"image": "none", "command": ["none"], "volumeMounts": mounts, "securityContext": _USERS}
    return {
        "name": name,
        "metadata": {"annotations": annotations},
        "inputs": {"parameters": [{"name": "patch"}]},
        "podSpecPatch": "{{inputs.parameters.patch}}",
        "securityContext": _POD,
        "volumes": [{"name": each, "emptyDir": {}} for each in ("kfp-launcher", *volumes)],
        "initContainers": [{**own, "volumeMounts": [launcher], "securityContext": _OWN}],
        "container": users,
    }


def _patch(executor: Object, settings: Object) -> Object:
    """What KFP's driver has patched into a step's pod."""
    container = executor["container"]
    given = container.get("resources", {})
    sizes = {
        kind: {name: given[key] for name, key in names.items() if key in given}
        for kind, names in (
            ("requests", {"cpu": "resourceCpuRequest", "memory": "resourceMemoryRequest"}),
            ("limits", {"cpu": "resourceCpuLimit", "memory": "resourceMemoryLimit"}),
        )
    }
    volumes, mounts = _volumes(settings)
    security = {
        key: int(value) if key != "runAsNonRoot" else value for key, value in settings["securityContext"].items()
    }
    main = {
        "name": "main",
        "image": container["image"],
        "command": ["/kfp-launcher/launch"],
        "args": ["--", *container["command"], *container["args"]],
        "resources": sizes,
        "env": [*container.get("env", []), *_variables(settings)],
        "volumeMounts": mounts,
        "securityContext": {**security, "capabilities": {"drop": ["ALL"]}},
    }
    return {"containers": [main], "volumes": volumes}


def _volumes(settings: Object) -> tuple[list[Object], list[Object]]:
    named: dict[str, tuple[str, Object]] = {}
    for each in settings.get("pvcMount", ()):
        claim = each["pvcNameParameter"]["runtimeValue"]["constant"]
        named[claim] = each["mountPath"], {"persistentVolumeClaim": {"claimName": claim}}
    for each in settings.get("secretAsVolume", ()):
        secret = each["secretNameParameter"]["runtimeValue"]["constant"]
        named[secret] = each["mountPath"], {"secret": {"secretName": secret, "optional": each["optional"]}}
    volumes = [{"name": name, **source} for name, (_, source) in named.items()]
    return volumes, [{"name": name, "mountPath": path} for name, (path, _) in named.items()]


def _variables(settings: Object) -> Iterator[Object]:
    for kind, name, key, source in (
        ("secretAsEnv", "secretName", "secretKey", "secretKeyRef"),
        ("configMapAsEnv", "configMapName", "configMapKey", "configMapKeyRef"),
    ):
        for each in settings.get(kind, ()):
            for pair in each["keyToEnv"]:
                found = {"name": each[name], "key": pair[key], "optional": each["optional"]}
                yield {"name": pair["envVar"], "valueFrom": {source: found}}
    for each in settings.get("fieldPathAsEnv", ()):
        yield {"name": each["name"], "valueFrom": {"fieldRef": {"fieldPath": each["fieldPath"]}}}


def as_run(workflow: Object, *history: str) -> Any:
    """A run as KFP's API tells of it: each node of the Workflow is a task.

    Args:
        workflow: the Workflow.
        history: the states that the run had before.
    """
    status = workflow.get("status", {})
    phase, states = _state(status.get("phase", "")), kfp_server_api.V2beta1RuntimeStatus
    ending = workflow["spec"].get("activeDeadlineSeconds") == 0 and phase in ("RUNNING", "PENDING")
    tasks = [
        kfp_server_api.V2beta1PipelineTaskDetail(
            display_name=node["displayName"],
            state=_state(node.get("phase", "")),
            start_time=node.get("startedAt"),
            pod_name=identity,
        )
        for identity, node in sorted(status.get("nodes", {}).items())
    ]
    return kfp_server_api.V2beta1Run(
        state="CANCELING" if ending else phase,
        state_history=[states(state=each) for each in history],
        run_details=kfp_server_api.V2beta1RunDetails(task_details=tasks),
    )


def _state(phase: str) -> str:
    return _STATES.get(phase, phase.upper())
