"""A run on a cluster, followed: its tasks by KFP's API, its pods and what the steps launched by the cluster's."""

from __future__ import annotations

import time
from collections.abc import Callable
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
_SILENCE_SECONDS = 300.0


class RunWatch:
    """Follows one run.

    Args:
        cluster: where its pods are.
        namespace: where its pods are.
        ask: gives the run as KFP has it (`kfp_server_api.V2beta1Run`).
        run_id: its name in FastTrack.
        kfp_run: its id in KFP.
        every: seconds between looks.
    """

    def __init__(
        self, cluster: Cluster, namespace: str, ask: Callable[[], Any], run_id: str, kfp_run: str, every: float = 5.0
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._ask = ask
        self._every = every
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
        """Tell of tasks and troubles until the run ends; its last state.

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
                self.reason = str(getattr(run.error, "message", "") or "")
                note(f"The run has ended: {str(run.state).lower()} after {self.seconds:.0f} s.")
                return str(run.state)
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

    def _tell_tasks(self, run: Any) -> None:
        details = getattr(run.run_details, "task_details", None) or []
        for task in sorted(details, key=lambda found: str(found.start_time or found.create_time or "")):
            name, state = str(task.display_name or ""), str(task.state or "")
            # KFP's own pods (drivers, executors, the root) are no steps of ours.
            if not name or not state or name.endswith(("-driver", "executor")) or name == "root":
                continue
            if self.tasks.get(name) != state:
                note(f"  {name:<14} {state.lower()}")
            self.tasks[name] = state
            if state == "FAILED" and not self.failed:
                self.failed = name
