"""One object of a cluster does a step's work: it is started, followed to its end, and never left behind."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

import orjson

from fasttrack.errors import DeadlineError, FastTrackError, UnavailableError
from fasttrack.kubeflow.cluster.kinds import CONFIG_MAP, POD, Kind, Object, kind_of
from fasttrack.kubeflow.interrupt import interruptible
from fasttrack.kubeflow.launchers.place import Place
from fasttrack.kubeflow.launchers.pursuit import Pursuit, Setback, Work
from fasttrack.kubeflow.names import label_value, launch_prefix, usecase_object
from fasttrack.kubeflow.pods import RUN_LABEL, USECASE_FILE, USECASE_LABEL, labels
from fasttrack.progress import note
from fasttrack.steps.frame import Step
from fasttrack.usecase import canonical_text

DIGEST = "fasttrack.ai/digest"
STEP_LABEL = "fasttrack.ai/step"

T = TypeVar("T")


def launch_name(at: Step, step: str, limit: int) -> str:
    """The same name whenever the same step of the same run is tried.

    Args:
        at: the step.
        step: its name, with the round where it can run again.
        limit: how long the name may be.
    """
    digest = hashlib.sha256(f"{at.usecase.name}\0{at.run_id}\0{step}".encode()).hexdigest()[:8]
    return f"{launch_prefix(at.usecase, step, limit)}-{digest}"


class Launch:
    """Starts an object for a step.

    Args:
        place: where.
        at: the step; its record tells of the object under ``cluster``.
        step: name of the step, with the round where it can run again.
        obj: the object, as the compiler makes it.
        work: how it is followed and judged.
    """

    def __init__(self, place: Place, at: Step, step: str, obj: Object, work: Work) -> None:
        self._place = place
        self._at = at
        self._work = work
        self._kind: Kind = kind_of(obj)
        self._name: str = obj["metadata"]["name"]
        self._config = self._use_case_file(step)
        self._object = self._stamped(with_file(obj, usecase_object(at.usecase), self._name), step)
        self._uid = ""
        self._said: dict[str, Any] = {"kind": self._kind.kind, "name": self._name, "namespace": place.namespace}
        at.record["cluster"] = self._said

    def run(self, collect: Callable[[Object], T]) -> T:
        """Start the object, or follow the one that an earlier try of this step left, and bring its result back.

        However this ends, by success, failure, timeout, Ctrl-C or SIGTERM: the object and its pods are deleted.

        Args:
            collect: reads the result of the finished object, which is still there.

        Raises:
            FastTrackError: why the work failed; UnavailableError if the cluster can't do it.
            KeyboardInterrupt: the step was cancelled.
        """
        limits = self._place.limits
        with interruptible(once=True):
            for attempt in range(1, limits.attempts + 1):
                self._said["attempts"] = attempt
                try:
                    return collect(self._once())
                except Setback as setback:
                    if attempt == limits.attempts:
                        raise setback.error from None
                    note(f"{setback.error}\nStarted again ({attempt + 1} of {limits.attempts}).")
                finally:
                    self._end()
        raise UnavailableError("no attempt was allowed.", where="FASTTRACK_LIMIT_ATTEMPTS", fix="Set it to 1 or more.")

    def _once(self) -> Object:
        self._start()
        pursuit = Pursuit(self._place.cluster, self._place.limits, self._object, self._work)
        try:
            return pursuit.run()
        finally:
            self._said |= pursuit.account()

    def _start(self) -> None:
        """Make the object, unless the very same one is there and not in vain."""
        cluster, place = self._place.cluster, self._place
        found = cluster.find(self._kind, self._name, place.namespace)
        if found is not None and not self._is_good(found):
            self._remove(place.limits.cleanup * 3)
            found = None
        what = f"{self._kind.kind} {place.namespace}/{self._name}"
        if found is None:
            self._work.prepare()
        note(f"{what}: {'is there already, and is followed' if found else 'started'}")
        cluster.apply(self._config, force=True)
        # Again if it is there: it now belongs to this try's pod.
        self._uid = cluster.apply(self._object, force=True)["metadata"]["uid"]
        self._said["uid"] = self._uid

    def _is_good(self, found: Object) -> bool:
        meta = found["metadata"]
        same = meta.get("annotations", {}).get(DIGEST) == self._object["metadata"]["annotations"][DIGEST]
        return same and not meta.get("deletionTimestamp") and self._work.judge(found).state != "failed"

    def _end(self) -> None:
        """Delete the object with all its pods; an error of that must not hide why the step ended."""
        cluster, place = self._place.cluster, self._place
        try:
            try:
                self._remove(place.limits.cleanup, uid=self._uid)
            finally:
                # It can't be changed: left behind, it would refuse a later try with another use case.
                cluster.delete(CONFIG_MAP, self._name, place.namespace)
        except FastTrackError as error:
            self._said["left_behind"] = str(error)
            note(f"{self._kind.kind} {self._name} could not be removed: {error}")

    def _remove(self, seconds: float, *, uid: str = "") -> None:
        """Delete the object and wait for the end of its pods: they hold what the next try wants.

        Not in the foreground: operators make the pods of an object anew as long as it is there.
        """
        cluster, namespace, ends = self._place.cluster, self._place.namespace, time.monotonic() + seconds
        cluster.delete(self._kind, self._name, namespace, uid=uid, wait=seconds, foreground=False)
        while pods := [p for p in cluster.list(POD, namespace) if p["metadata"]["name"].startswith(f"{self._name}-")]:
            if time.monotonic() > ends:
                raise DeadlineError(
                    f"{len(pods)} of its pods are still there {seconds:.0f} s after it was deleted.",
                    where=f"{self._kind.kind} {namespace}/{self._name}",
                    fix="They go by themselves; look at their nodes if they don't: kubectl get pods.",
                )
            time.sleep(0.5)

    def _use_case_file(self, step: str) -> Object:
        """The run's own use case: the shared ConfigMap may be replaced while the run goes on."""
        text = canonical_text(self._at.usecase)
        made = {"apiVersion": "v1", "kind": "ConfigMap", "immutable": True, "data": {USECASE_FILE: text}}
        meta = {"name": self._name, "namespace": self._place.namespace}
        return self._owned({**made, "metadata": meta}, step)

    def _stamped(self, obj: Object, step: str) -> Object:
        made = self._owned(obj, step)
        digest = hashlib.sha256(orjson.dumps(made["spec"], option=orjson.OPT_SORT_KEYS)).hexdigest()[:24]
        made["metadata"]["annotations"] = made["metadata"].get("annotations", {}) | {DIGEST: digest}
        return made

    def _owned(self, obj: Object, step: str) -> Object:
        meta = obj["metadata"] | {"namespace": self._place.namespace}
        own = {RUN_LABEL: label_value(self._at.run_id), USECASE_LABEL: self._at.usecase.name, STEP_LABEL: step}
        meta["labels"] = labels(step.partition("-")[0], self._at.usecase) | meta.get("labels", {}) | own
        if self._place.owner is not None:
            meta["ownerReferences"] = [self._place.owner]
        return {**obj, "metadata": meta}


def with_file(obj: Object, shared: str, own: str) -> Object:
    """`obj` with the ConfigMap `own` wherever it refers to the ConfigMap `shared`."""

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        made = {key: walk(item) for key, item in value.items()}
        for key in ("configMap", "configMapKeyRef", "configMapRef"):
            if isinstance(made.get(key), dict) and made[key].get("name") == shared:
                made[key]["name"] = own
        return made

    found: Object = walk(copy.deepcopy(obj))
    return found
