"""A run on a cluster, followed: its tasks by KFP's API, its pods and what the steps launched by the cluster's."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from typing import Any

from fasttrack.errors import AuthorizationError, UnavailableError
from fasttrack.kubeflow.cluster import diagnosis
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.follow import warnings
from fasttrack.kubeflow.cluster.kinds import EXPERIMENT, POD, SPARK_APPLICATION, TRAIN_JOB, Object
from fasttrack.kubeflow.cluster.trouble import Trouble
from fasttrack.kubeflow.names import label_value
from fasttrack.kubeflow.pods import RUN_LABEL
from fasttrack.progress import note

_ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"})
_LAUNCHED = (SPARK_APPLICATION, TRAIN_JOB, EXPERIMENT)
_KFP_LABEL = "pipeline/runid"
_DRIVER = "-driver"
_STOPPING = "CANCELING"
_SILENCE_SECONDS = 300.0
# What Argo leaves out (``Omitted``) has no state in KFP.
_NOTHING = ("", "RUNTIME_STATE_UNSPECIFIED")
# Argo tells of a node: "Error node flights-training-x7k2p.drain: pods ... is forbidden: ...".
_REASON = re.compile(r"\bnode \S+: (.+)", re.DOTALL)


class RunWatch:
    """Follows one run.

    Args:
        cluster: where its pods are.
        namespace: where its pods are.
        ask: gives the run as KFP has it (`kfp_server_api.V2beta1Run`).
        run_id: its name in FastTrack.
        kfp_run: its id in KFP.
        steps: the pipeline's tasks that are steps (`fasttrack.kubeflow.compiled.steps_in`).
        every: seconds between looks.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        ask: Callable[[], Any],
        run_id: str,
        kfp_run: str,
        *,
        steps: Collection[str],
        every: float = 5.0,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._ask = ask
        self._every = every
        self._steps = steps
        self._state = self._workflow = ""
        self._labels = [f"{_KFP_LABEL}={kfp_run}", f"{RUN_LABEL}={label_value(run_id)}"]
        self._run_label = self._labels[1]
        self._told: dict[tuple[str, str], Trouble] = {}
        self._blind = False
        self.tasks: dict[str, str] = {}
        #: The task that failed first, KFP's reason, and what ailed the pods last.
        self.failed = self.reason = ""
        self.last: Trouble | None = None
        self.seconds = 0.0

    def follow(self) -> str:
        """Tell of tasks and troubles until the run ends; its last state, ``CANCELED`` if somebody ended it.

        Raises:
            NotFoundError: KFP no longer has the run.
            UnavailableError: KFP has not answered for five minutes.
        """
        began = heard = time.monotonic()
        while True:
            try:
                run = self._ask()
                heard = time.monotonic()
            except UnavailableError:
                if time.monotonic() - heard > _SILENCE_SECONDS:
                    raise
                time.sleep(self._every)
                continue
            self._tell_tasks(run)
            self.look()
            self.seconds = round(time.monotonic() - began, 3)
            if str(run.state) in _ENDED:
                self.reason = str(getattr(run.error, "message", "") or "") or self._told_by_argo()
                state = self._ended(run)
                note(f"The run has ended: {state.lower()} after {self.seconds:.0f} s.")
                return state
            self._state = str(run.state)
            time.sleep(self._every)

    def look(self) -> list[Trouble]:
        """What ails the run's pods now; new troubles are told."""
        if self._blind:
            return []
        try:
            found = self._troubles()
        except UnavailableError:
            return []
        except AuthorizationError as error:
            # The run doesn't hang on it.
            self._blind = True
            note(f"Pods can't be looked at: {error}")
            return []
        for trouble in found:
            if (trouble.code, trouble.where) not in self._told:
                note(f"  ! {trouble}")
            self._told[trouble.code, trouble.where] = trouble
            self.last = trouble
        return found

    def troubles(self) -> list[dict[str, Any]]:
        """All troubles so far, as JSON values."""
        return [
            {"code": found.code, "what": found.what, "where": found.where, "fix": found.fix}
            for found in self._told.values()
        ]

    def _troubles(self) -> list[Trouble]:
        pods: dict[str, Object] = {}
        for labels in self._labels:
            for pod in self._cluster.list(POD, self._namespace, labels=labels):
                pods[pod["metadata"]["uid"]] = pod
        found: list[Trouble] = []
        if self._workflow:
            # A pod that is refused is no pod: only Argo's events tell.
            found += diagnosis.of_events(warnings(self._cluster, self._namespace, self._workflow), self._workflow)
        for name in self._launched():
            own = [
                pod
                for pod in self._cluster.list(POD, self._namespace)
                if pod["metadata"]["name"].startswith(f"{name}-")
            ]
            pods |= {pod["metadata"]["uid"]: pod for pod in own}
            if not own:
                found += diagnosis.of_events(warnings(self._cluster, self._namespace, name), name)
        waiting = [pod for pod in pods.values() if pod.get("status", {}).get("phase") == "Pending"]
        events = [
            event for pod in waiting for event in warnings(self._cluster, self._namespace, pod["metadata"]["name"])
        ]
        return [*found, *diagnosis.of_pods(pods.values(), events)]

    def _launched(self) -> list[str]:
        kinds = [kind for kind in _LAUNCHED if self._cluster.serves(kind)]
        return [
            obj["metadata"]["name"]
            for kind in kinds
            for obj in self._cluster.list(kind, self._namespace, labels=self._run_label)
        ]

    def _ended(self, run: Any) -> str:
        """The state that a run ended in. KFP calls one that was terminated a failed one; what it was before tells."""
        history = [str(each.state) for each in run.state_history or []]
        before = next((state for state in reversed(history) if state not in _ENDED), self._state)
        return "CANCELED" if run.state == "FAILED" and _STOPPING in (before, self._state) else str(run.state)

    def _told_by_argo(self) -> str:
        """The first reason in Argo's events of the Workflow; empty if there is none."""
        told = warnings(self._cluster, self._namespace, self._workflow) if self._workflow else []
        of_nodes = [each for each in told if each["involvedObject"].get("name") == self._workflow]
        reasons = [_REASON.search(str(each.get("message") or "")) for each in of_nodes]
        return next((found[1] for found in reasons if found), "")

    def _tell_tasks(self, run: Any) -> None:
        details = getattr(run.run_details, "task_details", None) or []
        tasks = sorted(details, key=lambda found: str(found.start_time or found.create_time or ""))
        # The Workflow itself begins before all that is in it.
        self._workflow = str(tasks[0].display_name or "") if tasks else ""
        for task in tasks:
            name, state = str(task.display_name or ""), str(task.state or "")
            step = name.removesuffix(_DRIVER)
            # Each node of Argo's is a task to KFP: the workflow, graphs, conditions, hooks and drivers too. Those are
            # no steps; but if a step's driver fails, the step never starts.
            if step not in self._steps or state in _NOTHING or (step != name and state != "FAILED"):
                continue
            if self.tasks.get(step) != state:
                note(f"  {step:<14} {state.lower()}")
            self.tasks[step] = state
            if state == "FAILED" and not self.failed:
                self.failed = step
