"""The part `steps`: the compiled pipeline's own steps as pods, from a drained lake to a published model.

KFP's API server isn't at hand: its place is taken here, which makes of each step the pod that KFP makes of it (image,
command, variables, volumes and security out of the compiled files) and hands outputs on. Everything else is real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.compile import PACKAGE, render
from fasttrack.kubeflow.objects import Options
from fasttrack.kubeflow.scaling import Scaling
from fasttrack.kubeflow.sizes import parse_sizes
from fasttrack.local.platform import Platform
from fasttrack.usecase import UseCase, canonical_text, parse
from tests.node import katib_pods, rig, routes
from tests.node.bench import Bench
from tests.node.rig import NAMESPACE, REGISTRY, ROOT, Object

# The node has one and a half cores for all.
SIZES = ["train=200m,2Gi", "driver=200m,2Gi", "executor=200m,2Gi"]
SIZES += ["predictor=100m,1Gi", "transformer=100m,1Gi", "explainer=100m,3Gi"]
RUN = "6f1d3c52-0000-4000-8000-00000000node"
SAMPLE = "0.05"
_OUTPUTS = f"{pods.DATA_PATH}/kfp"
_ANSWER = "executor_output.json"


def steps(bench: Bench) -> None:
    """Features, search, training, evaluation, gate, registration and publishing, each in its pod."""
    usecase = _usecase()
    versions = _drained(usecase, bench.folder)
    rig.apply(rig.base("Job", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"))
    rig.until("migrations Job complete", lambda: rig.condition(rig.get("job", "migrations-0-1-0"), "Complete"))
    rig.apply([_signing_key(bench)])
    rig.kubectl("delete", "inferenceservice", "--all", "--wait")
    rig.kubectl("delete", "deployment", "gateway", "--ignore-not-found")
    limits = {"data": {"FASTTRACK_LIMIT_PUBLISH": "8m", "FASTTRACK_LIMIT_TUNE": "15m"}}
    rig.kubectl("patch", "configmap", pods.SETTINGS, "--type=merge", "-p", json.dumps(limits))
    options = Options(executors=1, sizes=parse_sizes(SIZES), scaling=Scaling(1, 1, "none"))
    contents = render(usecase, registry=REGISTRY, namespace=NAMESPACE, options=options)
    for name in ("usecase.yaml", "runtimes.yaml", "inferenceservice.yaml"):
        rig.apply(list(yaml.safe_load_all(contents[name])))
    pipeline = Pipeline(*yaml.safe_load_all(contents[PACKAGE]), canonical_text(usecase))
    with katib_pods.running(), routes.accepted():
        version = _play(pipeline, versions)
    registry = bench.registry()
    champion = registry.get(usecase.name, "champion")
    registry.close()
    assert champion.version == int(version)
    ready = rig.running_pods(f"serving.kserve.io/inferenceservice={usecase.name}")
    print(f"  version {version} is the champion, served by {[each['metadata']['name'] for each in ready]}")
    assert len(ready) == 2 and all(rig.condition(each, "Ready") for each in ready)
    made = [each for kind in ("trainjobs", "experiments", "sparkapplications") for each in rig.listed(kind)]
    left = [each["metadata"]["name"] for each in made]
    # The compiled ones that were applied are suspended; a run's carry its digest.
    assert not [name for name in left if name.startswith(f"{usecase.name}-")], left


def _play(pipeline: Pipeline, versions: str) -> str:
    """The pipeline's way through its first round."""
    table = pipeline.run("features", lake=versions)
    candidate = pipeline.run("tune", features=table, round=1)
    fitted = pipeline.run("train", features=table, candidate=candidate, round=1)
    scored = pipeline.run("evaluate", features=table, model=fitted, round=1)
    decided = pipeline.run("gate", model=scored, round=1)
    assert decided == "accepted", decided
    version = pipeline.run("register", lake=versions, model=scored, round=1)
    pipeline.run("publish", version=version)
    return version


class Pipeline:
    """The compiled pipeline.

    Args:
        spec: KFP's intermediate representation.
        platform: what of it is Kubernetes' own.
        usecase: the use case as text.
    """

    def __init__(self, spec: Object, platform: Object, usecase: str) -> None:
        self._spec = spec
        self._platform = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self._usecase = usecase

    def run(self, step: str, **inputs: Any) -> str:
        """Run a step in its pod; gives its output."""
        name, started = f"flights-{step}-step", time.monotonic()
        rig.kubectl("delete", "pod", name, "--ignore-not-found")
        rig.apply([self._pod(name, step, {"usecase": self._usecase, "run_id": "", **inputs})])

        def ended() -> bool:
            phase = rig.get("pod", name).get("status", {}).get("phase")
            assert phase != "Failed", rig.kubectl("logs", name, "--tail=60")
            return phase == "Succeeded"

        rig.until(f"step {step}", ended, 900)
        told = json.loads(rig.kubectl("exec", "files", "--", "cat", f"{_OUTPUTS}/{step}/{_ANSWER}"))
        output = str(told["parameterValues"]["Output"])
        said = rig.kubectl("logs", name, "--tail=4").strip().replace("\n", "\n      | ")
        print(f"      | {said}\n    -> {output[:160]} ({time.monotonic() - started:.0f} s)", flush=True)
        return output

    def _pod(self, name: str, step: str, inputs: dict[str, Any]) -> Object:
        container = self._spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]
        given = self._platform[f"exec-{step}"]
        told = json.dumps(self._executor_input(step, inputs))
        user = {
            key: value if isinstance(value, bool) else int(value) for key, value in given["securityContext"].items()
        }
        asked = container["resources"]
        mounts, volumes = _volumes(given)
        made = {
            "name": "main",
            "image": container["image"],
            "imagePullPolicy": "IfNotPresent",
            "command": container["command"],
            "args": [told if word == "{{$}}" else word for word in container["args"]],
            "env": [*container.get("env", []), *_variables(given)],
            # As much CPU as the node has left; memory as compiled.
            "resources": {
                "requests": {"cpu": "100m", "memory": asked["resourceMemoryRequest"]},
                "limits": {"memory": asked["resourceMemoryLimit"]},
            },
            # As KFP 2.17 adds it to every step.
            "securityContext": {
                **user,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumeMounts": mounts,
        }
        spec = {"serviceAccountName": pods.PIPELINE_ACCOUNT, "restartPolicy": "Never", "containers": [made]}
        meta = {"name": name, "namespace": NAMESPACE, "labels": {"pipeline/runid": RUN}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec | {"volumes": volumes}}

    def _executor_input(self, step: str, inputs: dict[str, Any]) -> Object:
        """What KFP's launcher tells the component (ExecutorInput of pipeline_spec.proto)."""
        component = self._spec["components"][f"comp-{step}"]
        assert set(component["inputDefinitions"]["parameters"]) == set(inputs), step
        folder = f"{_OUTPUTS}/{step}"
        outputs: Object = {"outputFile": f"{folder}/{_ANSWER}"}
        defined = component.get("outputDefinitions", {})
        outputs["parameters"] = {key: {"outputFile": f"{folder}/{key}"} for key in defined.get("parameters", {})}
        outputs["artifacts"] = {
            key: {"artifacts": [{"name": key, "type": found["artifactType"], "uri": f"{folder}/{key}", "metadata": {}}]}
            for key, found in defined.get("artifacts", {}).items()
        }
        return {"inputs": {"parameterValues": inputs}, "outputs": outputs}


def _variables(given: Object) -> list[Object]:
    made: list[Object] = [{"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
    for source, reference, name, key in (
        ("configMapAsEnv", "configMapKeyRef", "configMapName", "configMapKey"),
        ("secretAsEnv", "secretKeyRef", "secretName", "secretKey"),
    ):
        for each in given[source]:
            for pair in each["keyToEnv"]:
                chosen = {"name": each[name], "key": pair[key], "optional": each["optional"]}
                made.append({"name": pair["envVar"], "valueFrom": {reference: chosen}})
    for each in given["fieldPathAsEnv"]:
        made.append({"name": each["name"], "valueFrom": {"fieldRef": {"fieldPath": each["fieldPath"]}}})
    return made


def _volumes(given: Object) -> tuple[list[Object], list[Object]]:
    mounts: list[Object] = []
    volumes: list[Object] = []
    for each in given["pvcMount"]:
        mounts.append(pods.mount(each["constant"], each["mountPath"]))
        volumes.append({"name": each["constant"], "persistentVolumeClaim": {"claimName": each["constant"]}})
    for each in given.get("secretAsVolume", []):
        mounts.append(pods.mount(each["secretName"], each["mountPath"], read_only=True))
        volumes.append({"name": each["secretName"], "secret": {"secretName": each["secretName"]}})
    return mounts, volumes


def _usecase() -> UseCase:
    """The flights, with as many trials as fit into the test's time."""
    text = (ROOT / "examples/flights/usecase.yaml").read_text()
    return parse(text.replace("trials: 6,", "trials: 3,"))


# The first two steps as they run on this machine: no broker is on the node.
_FIRST = """
import sys
from fasttrack.steps.drain import drain
from fasttrack.steps.validate import validate
lake = drain(sys.argv[1], sys.argv[2])
validate(sys.argv[1], sys.argv[2], lake)
print(lake)
"""


def _drained(usecase: UseCase, folder: Path) -> str:
    """Drain and validate on this machine, put lake and records on the shared volume; gives the tables' versions."""
    home = folder / "home"
    with Platform(home) as platform:
        env = os.environ | platform.environment()
        command = [str(Path(sys.executable).with_name("fasttrack")), "replay", "--sample", SAMPLE]
        subprocess.run(command, env=env, check=True)
        words = [sys.executable, "-c", _FIRST, canonical_text(usecase), RUN]
        versions = subprocess.run(words, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    rig.put(home / "lake/flights/raw", f"{pods.DATA_PATH}/lake/flights/raw")
    rig.put(home / "runs/flights" / RUN, f"{pods.DATA_PATH}/runs/flights/{RUN}")
    return versions


def _signing_key(bench: Bench) -> Object:
    content = {"signing.pem": bench.built.private_key.decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": pods.SIGNING_KEY}, "stringData": content}
