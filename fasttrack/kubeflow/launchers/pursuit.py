"""Follows one object and its pods to the end: progress, troubles, limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from fasttrack.errors import ConflictError, DeadlineError, FastTrackError, StepError, UnavailableError
from fasttrack.kubeflow.cluster import diagnosis
from fasttrack.kubeflow.cluster.client import Cluster
from fasttrack.kubeflow.cluster.follow import Feed, LogTail, Selection, warnings
from fasttrack.kubeflow.cluster.kinds import POD, Kind, Object, kind_of
from fasttrack.kubeflow.cluster.stream import Change
from fasttrack.kubeflow.cluster.trouble import Trouble
from fasttrack.kubeflow.launchers.place import Limits
from fasttrack.progress import note

_TICK_SECONDS = 1.0
_LOG_SECONDS = 3.0
_EXAMINE_SECONDS = 4.0
_RESYNC_SECONDS = 30.0
_TOLD_LINES = 40
#: What only time or room mends; everything else needs a person.
_ROOM = frozenset({"no-gpu", "no-room", "gated", "quota", "taint"})


@dataclass(frozen=True)
class Verdict:
    """How an object stands."""

    state: Literal["running", "succeeded", "failed"]
    message: str = ""


@dataclass(frozen=True)
class Work:
    """How an object is followed.

    Attributes:
        judge: how it stands.
        pods: label selector of its pods; of these, those count whose names begin with the object's.
        speaker: whether a pod's log is worth following; one pod's is.
        container: the container that speaks.
        seconds: how long it may take.
        on_line: called with each new line of the speaker's log.
        on_object: called with the object whenever it changes.
        explain: the work's own account of its failure, if it left one.
        prepare: called before the object is made anew.
        on_tick: called every few seconds.
    """

    judge: Callable[[Object], Verdict]
    pods: str
    speaker: Callable[[Object], bool]
    container: str
    seconds: float
    on_line: Callable[[str], None] = lambda line: note(f"  | {line}")
    on_object: Callable[[Object], None] = lambda obj: None
    explain: Callable[[list[str]], FastTrackError | None] = lambda lines: None
    prepare: Callable[[], None] = lambda: None
    on_tick: Callable[[], None] = lambda: None


class Setback(Exception):
    """The work was ended by others: worth another attempt."""

    def __init__(self, error: FastTrackError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class Pursuit:
    """One object that is followed; `run` once."""

    cluster: Cluster
    limits: Limits
    obj: Object
    work: Work
    _pods: dict[str, Object] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)
    _told: dict[str, Trouble] = field(default_factory=dict)

    def __post_init__(self) -> None:
        meta = self.obj["metadata"]
        self._kind: Kind = kind_of(self.obj)
        self._name, self._namespace = meta["name"], meta["namespace"]
        self._logs = LogTail(self.cluster, self._namespace)
        self._latest: Object = self.obj
        self._next = dict.fromkeys(("logs", "tick", "examine", "resync"), 0.0)
        self._alive: set[str] = set()

    def run(self) -> Object:
        """Follow until the object has succeeded, and return it.

        Raises:
            Setback: it was ended by others.
            ConflictError: somebody deleted it.
            DeadlineError: it took too long.
            FastTrackError: it failed.
        """
        ends = time.monotonic() + self.work.seconds
        chosen = [
            Selection(self._kind, self._namespace, name=self._name),
            Selection(POD, self._namespace, labels=self.work.pods),
        ]
        with Feed(self.cluster, chosen) as feed:
            while True:
                for kind, change in feed.read(_TICK_SECONDS):
                    self._take(kind, change)
                verdict = self.work.judge(self._latest)
                if verdict.state == "succeeded":
                    self._hear()
                    return self._latest
                if verdict.state == "failed":
                    raise self._failure(verdict)
                self._now_and_then()
                if time.monotonic() > ends:
                    raise self._too_late()

    def account(self) -> dict[str, Any]:
        """What the run's record keeps: pods, troubles, last lines."""
        pods = [
            {
                "name": pod["metadata"]["name"],
                "node": pod.get("spec", {}).get("nodeName", ""),
                "phase": pod.get("status", {}).get("phase", ""),
            }
            for pod in self._pods.values()
        ]
        troubles = [{"code": trouble.code, "told": str(trouble)} for trouble in self._told.values()]
        return {"pods": pods, "troubles": troubles, "log": list(self._logs.lines)[-_TOLD_LINES:]}

    def _take(self, kind: Kind, change: Change) -> None:
        if kind == POD:
            if not change.object["metadata"]["name"].startswith(f"{self._name}-"):
                return
            uid = change.object["metadata"]["uid"]
            # Pods that are gone are kept: they may tell why.
            self._pods[uid] = change.object
            (self._alive.discard if change.type == "DELETED" else self._alive.add)(uid)
        elif change.type == "DELETED":
            raise ConflictError(
                "it was deleted by somebody else.",
                where=f"{self._kind.kind} {self._namespace}/{self._name}",
                fix="Run the step again, if that was not meant to end it.",
            )
        else:
            self._latest = change.object
            self.work.on_object(change.object)

    def _now_and_then(self) -> None:
        if self._due("logs", _LOG_SECONDS):
            self._hear()
        if self._due("tick", _TICK_SECONDS):
            self.work.on_tick()
        if self._due("examine", _EXAMINE_SECONDS):
            self._examine()
        if self._due("resync", _RESYNC_SECONDS):
            # Should a watch be silent although its object has changed.
            try:
                found = self.cluster.find(self._kind, self._name, self._namespace)
            except UnavailableError:
                return
            self._take(self._kind, Change("MODIFIED", found) if found else Change("DELETED", self._latest))

    def _due(self, what: str, seconds: float) -> bool:
        now = time.monotonic()
        if now < self._next[what]:
            return False
        first, self._next[what] = not self._next[what], now + seconds
        return not first

    def _hear(self) -> None:
        for uid, pod in self._pods.items():
            started = pod.get("status", {}).get("phase") in ("Running", "Succeeded", "Failed")
            if uid in self._alive and started and self.work.speaker(pod):
                for line in self._logs.poll(pod["metadata"]["name"], self.work.container):
                    self.work.on_line(line)

    def _examine(self) -> None:
        """Tell of new troubles; give up on those that won't go."""
        troubles = self._troubles()
        now = time.monotonic()
        self._since = {trouble.code: self._since.get(trouble.code, now) for trouble in troubles}
        for trouble in troubles:
            if trouble.code not in self._told:
                note(f"  ! {trouble}")
            self._told[trouble.code] = trouble
            patience = self.limits.pending if trouble.code in _ROOM else self.limits.stuck
            waited = now - self._since[trouble.code]
            ended = trouble.code in ("failed", "killed", "out-of-memory") or trouble.transient
            # What has ended is left to the object's controller: it may start it again.
            if trouble.fatal or (not ended and waited > patience):
                raise trouble.error(f"{self._kind.kind} {self._name}")

    def _troubles(self) -> list[Trouble]:
        pods = [self._pods[uid] for uid in self._alive]
        events = self._warnings()
        # Events stay for an hour: they count only while what they are about has no pods.
        barren = [event for event in events if not _has_pods(event, pods)]
        return [*diagnosis.of_pods(pods, events), *diagnosis.of_events(barren, self._name)]

    def _warnings(self) -> list[Object]:
        """Since the object was made: events of an earlier try under this name stay for an hour."""
        made = str(self._latest["metadata"].get("creationTimestamp", ""))
        return warnings(self.cluster, self._namespace, self._name, made) if made else []

    def _failure(self, verdict: Verdict) -> Exception:
        self._hear()
        if (own := self.work.explain(list(self._logs.lines))) is not None:
            return own
        where = f"{self._kind.kind} {self._namespace}/{self._name}"
        trouble = diagnosis.cause(self._pods.values())
        if trouble is None:
            made = diagnosis.of_events(self._warnings(), self._name)
            trouble = made[0] if made else None
        if trouble is not None:
            self._told[trouble.code] = trouble
            error = trouble.error(where)
            return Setback(error) if trouble.transient else error
        last = " / ".join(list(self._logs.lines)[-3:])
        what = f"it failed: {verdict.message or 'no reason given'}{f' ({last})' if last else ''}"
        return StepError(what, where=where, fix="Its pods' last lines are in the step's record.")

    def _too_late(self) -> FastTrackError:
        troubles = self._troubles()
        why = f" At the end: {troubles[0]}" if troubles else ""
        return DeadlineError(
            f"it was not finished after {self.work.seconds:.0f} s.{why}",
            where=f"{self._kind.kind} {self._namespace}/{self._name}",
            fix="Raise the limit (FASTTRACK_LIMIT_*), or give it more resources.",
        )


def _has_pods(event: Object, pods: list[Object]) -> bool:
    about = event["involvedObject"]
    name = str(about.get("name", ""))
    # A Deployment that was mended has another ReplicaSet.
    stem = name.rpartition("-")[0] if about.get("kind") == "ReplicaSet" else name
    return any(pod["metadata"]["name"].startswith(f"{stem}-") for pod in pods)
