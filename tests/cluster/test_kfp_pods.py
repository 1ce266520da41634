"""The pipeline as KFP lays it out, run by the real Argo in a `restricted` namespace, and followed.

KFP's server and driver are not at hand: see tests/cluster/kfp_workflow.py for what stands in for them. The nodes are
simulated ones (kwok): pods end by themselves.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from fasttrack.kubeflow import pods
from fasttrack.kubeflow.cluster.client import connect
from fasttrack.kubeflow.cluster.kinds import POD, Object
from fasttrack.kubeflow.compile import PACKAGE, render
from fasttrack.kubeflow.compiled import steps_in
from fasttrack.kubeflow.run_watch import RunWatch
from fasttrack.usecase import UseCase
from tests.cluster.kfp_workflow import EXECUTOR, WORKFLOW, Pipeline, as_run
from tests.cluster.kubectl import Kubectl, until

CONTROLLER = "workflow-controller-configmap"
ENDED = ("Succeeded", "Failed", "Error")
ROUND = ("features", "tune", "train", "evaluate", "gate")
ACCEPTED = frozenset({"drain", "validate", *ROUND, "register", "publish", "report"})


@dataclass(frozen=True)
class Run:
    """A Workflow of the pipeline."""

    room: Kubectl
    name: str
    identity: str

    def workflow(self) -> Object:
        return connect().get(WORKFLOW, self.name, self.room.namespace)

    def ended(self) -> Object | None:
        found = self.workflow()
        return found if found.get("status", {}).get("phase") in ENDED else None

    def pod(self, workflow: Object, step: str) -> Object:
        """The pod of a step: that of the node `executor` within the step's."""
        nodes = workflow["status"]["nodes"]
        (within,) = [key for key, node in nodes.items() if node["displayName"] == step]
        (executor,) = [node for node in nodes.values() if node.get("boundaryID") == within]
        of_run = connect().list(POD, self.room.namespace, labels=f"pipeline/runid={self.identity}")
        key = "workflows.argoproj.io/node-name"
        (found,) = [pod for pod in of_run if pod["metadata"]["annotations"][key] == executor["name"]]
        return found

    def running(self, step: str) -> Object:
        """The pod of the only step that runs, as soon as it does."""

        def found() -> Object | None:
            workflow = self.workflow()
            nodes = workflow.get("status", {}).get("nodes", {}).values()
            started = any(node["displayName"] == "executor" and node.get("phase") == "Running" for node in nodes)
            return self.pod(workflow, step) if started else None

        return until(found, f"{step} runs", 120)

    def watch(self, package: dict[str, str], ask: Callable[[], Any] | None = None) -> RunWatch:
        """What follows it; `ask` gives it in KFP's words."""
        ends = time.monotonic() + 300

        def now() -> Any:
            assert time.monotonic() < ends, "the Workflow doesn't end"
            return as_run(self.workflow())

        steps = steps_in(package)
        return RunWatch(connect(), self.room.namespace, ask or now, "run-1", self.identity, steps=steps, every=0.5)


def start(room: Kubectl, spec: Callable[[str], Object]) -> Run:
    identity = str(uuid.uuid4())
    wanted = spec(identity)
    made = connect().create({**wanted, "metadata": {**wanted["metadata"], "namespace": room.namespace}})
    return Run(room, made["metadata"]["name"], identity)


# ---------------------------------------------------------------- Argo as KFP sets it up


@pytest.fixture(scope="module")
def argo(cluster: Kubectl, room: Kubectl) -> Iterator[None]:
    """Argo's controller with what KFP's manifests have it give its own containers."""
    done = cluster("get", "configmap", "--all-namespaces", f"--field-selector=metadata.name={CONTROLLER}", "-o", "json")
    found = json.loads(done)["items"]
    assert found, f"no Argo: there is no ConfigMap {CONTROLLER}"
    space, before = Kubectl(found[0]["metadata"]["namespace"]), found[0].get("data", {}).get("executor")
    settings = yaml.safe_load(before or "{}")
    if "securityContext" in settings:
        yield
        return
    executor(space, yaml.safe_dump({**settings, **EXECUTOR}))
    try:
        until(lambda: admitted(room), "Argo's own containers are as KFP has them", 60)
        yield
    finally:
        executor(space, before)


def executor(space: Kubectl, settings: str | None) -> None:
    patch = json.dumps({"data": {"executor": settings}})
    space("patch", "configmap", CONTROLLER, "--type=merge", f"--patch={patch}")


def admitted(room: Kubectl) -> bool:
    """Whether a Workflow of one plain pod gets that pod."""
    template = {"name": "it", "container": {"image": "it", "command": ["it"], **EXECUTOR}}
    spec = {"entrypoint": "it", "serviceAccountName": pods.PIPELINE_ACCOUNT, "templates": [template]}
    head = {"apiVersion": WORKFLOW.api_version, "kind": WORKFLOW.kind, "metadata": {"generateName": "probe-"}}
    run = start(room, lambda _: {**head, "spec": spec})

    def decided() -> str:
        status = run.workflow().get("status", {})
        of_pods = [node for node in status.get("nodes", {}).values() if node["type"] == "Pod"]
        return next((node["phase"] for node in of_pods if node["phase"] in (*ENDED, "Running")), "")

    phase = until(decided, "the probe's pod runs, or is refused", 60)
    return phase in ("Running", "Succeeded")


# ---------------------------------------------------------------- runs, all at a time


@pytest.fixture(scope="module")
def package(flights: UseCase, room: Kubectl) -> dict[str, str]:
    return render(flights, registry="registry.invalid", namespace=room.namespace)


@pytest.fixture(scope="module")
def runs(room: Kubectl, argo: None, package: dict[str, str]) -> dict[str, Run]:
    """One whose model is accepted, all of it at once, two in their order whose drain goes on until a test ends it, and
    two whose pods are refused.
    """
    claim = ("persistentvolumeclaim", pods.DATA)
    until(lambda: (room.get(*claim) or {}).get("status", {}).get("phase") == "Bound", "the claim is bound", 90)
    text, account, drain = package[PACKAGE], pods.PIPELINE_ACCOUNT, frozenset({"drain"})
    accepted = Pipeline(text, account, refused=frozenset({"condition-3"}), ordered=False)
    wanted = {"accepted": accepted, "failing": Pipeline(text, account, held=drain)}
    wanted |= {"terminated": Pipeline(text, account, held=drain), "account": Pipeline(text, "absent")}
    as_root = text.replace("runAsNonRoot: true", "runAsNonRoot: false")
    wanted["pod-security"] = Pipeline(as_root, account, ordered=False)
    return {name: start(room, pipeline.workflow) for name, pipeline in wanted.items()}


@pytest.fixture(scope="module")
def accepted(runs: dict[str, Run], package: dict[str, str]) -> tuple[Object, RunWatch]:
    """The Workflow at its end, and what followed it."""
    follower = runs["accepted"].watch(package)
    state, workflow = follower.follow(), runs["accepted"].workflow()
    assert state == "SUCCEEDED", [node.get("message") for node in workflow["status"]["nodes"].values()]
    return workflow, follower


def test_every_pod_is_admitted_and_each_step_is_told_of_and_nothing_else(accepted: tuple[Object, RunWatch]) -> None:
    workflow, follower = accepted
    nodes = {node["displayName"] for node in workflow["status"]["nodes"].values()}
    # What is a task to KFP, and no step.
    assert nodes >= {"root", "root-driver", "executor", "exit-handler-1", "exit-handler-1.onExit", "condition-2"}
    assert workflow["metadata"]["name"] in nodes
    assert follower.tasks == dict.fromkeys(ACCEPTED, "SUCCEEDED")
    assert (follower.failed, follower.troubles()) == ("", [])


@pytest.mark.parametrize("step", sorted(ACCEPTED))
def test_a_steps_pod_has_what_the_step_is_compiled_with(
    runs: dict[str, Run], accepted: tuple[Object, RunWatch], package: dict[str, str], step: str
) -> None:
    pod = runs["accepted"].pod(accepted[0], step)
    assert pod["spec"]["serviceAccountName"] == pods.PIPELINE_ACCOUNT
    (main,) = [each for each in pod["spec"]["containers"] if each["name"] == "main"]
    compiled = Pipeline(package[PACKAGE], "").container(step)
    assert main["image"] == compiled["image"] and main["image"].startswith(f"registry.invalid/fasttrack/{step}:")
    wanted = compiled["resources"]
    assert main["resources"] == {
        "requests": {"cpu": wanted["resourceCpuRequest"], "memory": wanted["resourceMemoryRequest"]},
        "limits": {"memory": wanted["resourceMemoryLimit"]},
    }
    security = main["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["runAsNonRoot"]) == (pods.USER, pods.USER, True)
    mounted = {each["mountPath"]: each["name"] for each in main["volumeMounts"]}
    sources = {each["name"]: each for each in pod["spec"]["volumes"]}
    assert sources[mounted[pods.DATA_PATH]]["persistentVolumeClaim"]["claimName"] == pods.DATA
    keys = {each["secret"]["secretName"] for each in sources.values() if "secret" in each}
    theirs = {"register": {pods.SIGNING_KEY, pods.VERIFY_KEY}, "publish": {pods.VERIFY_KEY}}
    assert keys & {pods.SIGNING_KEY, pods.VERIFY_KEY} == theirs.get(step, set())
    variables = {each["name"]: each for each in main["env"]}
    assert variables["FASTTRACK_KAFKA"]["valueFrom"]["configMapKeyRef"]["name"] == pods.SETTINGS
    path = variables["FASTTRACK_RUN_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['pipeline/runid']"
    assert pod["metadata"]["labels"]["pipeline/runid"] == runs["accepted"].identity


@pytest.fixture(scope="module")
def disturbed(runs: dict[str, Run]) -> dict[str, Run]:
    """The drain of one run fails; the other run is terminated."""
    fail(runs["failing"].running("drain"))
    runs["terminated"].running("drain")
    # So KFP terminates a run, and then calls it failed.
    patch = json.dumps({"spec": {"activeDeadlineSeconds": 0}})
    runs["terminated"].room("patch", "workflow", runs["terminated"].name, "--type=merge", f"--patch={patch}")
    return runs


def test_the_step_that_failed_is_named_and_the_report_still_runs(
    disturbed: dict[str, Run], package: dict[str, str]
) -> None:
    follower = disturbed["failing"].watch(package)
    assert follower.follow() == "FAILED"
    assert follower.failed == "drain"
    assert follower.tasks == {"drain": "FAILED", "report": "SUCCEEDED"}


def test_a_run_that_somebody_terminates_is_told_as_cancelled(
    disturbed: dict[str, Run], package: dict[str, str]
) -> None:
    ended = until(disturbed["terminated"].ended, "the Workflow ends", 90)
    assert ended["status"]["phase"] == "Failed"
    follower = disturbed["terminated"].watch(package, lambda: as_run(ended, "PENDING", "RUNNING", "CANCELING"))
    assert follower.follow() == "CANCELED"
    assert follower.tasks["drain"] == "FAILED"


@pytest.mark.parametrize(
    ("name", "told"), [("account", 'serviceaccount "absent" not found'), ("pod-security", "runAsNonRoot != true")]
)
def test_why_a_pod_is_refused_is_told_though_there_is_no_pod(
    runs: dict[str, Run], package: dict[str, str], name: str, told: str
) -> None:
    follower = runs[name].watch(package)
    assert follower.follow() == "FAILED"
    (trouble,) = follower.troubles()
    assert trouble["code"] == name and told in trouble["what"]
    assert trouble["where"] == f"Workflow {runs[name].name}"
    assert told in follower.reason
    # A run without an account has not come to its steps.
    assert (follower.failed in steps_in(package)) == (name == "pod-security")


def fail(pod: Object) -> None:
    """All containers of a pod end with an error."""
    cluster = connect()
    ended = {"terminated": {"exitCode": 1, "reason": "Error", "message": "by a test"}}
    of_one = {"imageID": "", "ready": False, "restartCount": 0, "state": ended}
    statuses = [{"name": each["name"], "image": each["image"], **of_one} for each in pod["spec"]["containers"]]
    path = cluster.path(POD, pod["metadata"]["namespace"], pod["metadata"]["name"]) + "/status"
    body = {"status": {"phase": "Failed", "containerStatuses": statuses}}
    cluster.request("PATCH", path, body=body, content="application/merge-patch+json", where="status")
