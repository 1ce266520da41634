"""A cluster's API server: get, list, server-side apply, delete, watch; its refusals come as FastTrack's errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fasttrack.errors import ConfigurationError, DeadlineError, NotFoundError
from fasttrack.kubeflow.cluster.connection import api_client
from fasttrack.kubeflow.cluster.discovery import Discovery
from fasttrack.kubeflow.cluster.kinds import POD, Kind, Object, kind_of
from fasttrack.kubeflow.cluster.refusals import Expired
from fasttrack.kubeflow.cluster.stream import Change, Watch

#: Who owns the fields that FastTrack applies.
FIELD_MANAGER = "fasttrack"

_PAGE = 500
_LOG_TIMEOUT = (3.0, 5.0)


class Snapshot(NamedTuple):
    """Objects, and the moment (resource version) from which a watch goes on."""

    items: list[Object]
    version: str


def connect(context: str | None = None, *, kubeconfig: str | None = None, patience: float = 60.0) -> Cluster:
    """Connect to a cluster: in a pod as its service account, elsewhere by kubeconfig; nothing is asked of it yet.

    Args:
        context: a context of the kubeconfig; the current one by default.
        kubeconfig: path of the file; by default ``KUBECONFIG``'s.
        patience: for how many seconds a request is repeated while the API server does not answer.

    Raises:
        ConfigurationError: there is no kubeconfig, or it can't be used.
    """
    return Cluster(api_client(context, kubeconfig), patience)


class Cluster(Discovery):
    """One cluster. May be used by several threads."""

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        """One object.

        Raises:
            NotFoundError: there is none of this name.
            ConfigurationError: the cluster doesn't know the kind: its operator isn't installed.
            AuthorizationError: not permitted.
            UnavailableError: the API server does not answer.
        """
        found: Object = self.request("GET", self.path(kind, namespace, name), where=_place(kind, name, namespace))
        return found

    def find(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """One object, or None if there is none of this name; raises as `get` does."""
        try:
            return self.get(kind, name, namespace)
        except NotFoundError:
            return None

    def list(self, kind: Kind, namespace: str = "", *, labels: str = "", fields: str = "") -> list[Object]:
        """All objects of a kind, of one namespace or of all.

        Args:
            kind: the kind.
            namespace: all of them by default.
            labels: a label selector.
            fields: a field selector.

        Raises:
            As `get`.
        """
        return self.snapshot(kind, namespace, labels=labels, fields=fields).items

    def snapshot(self, kind: Kind, namespace: str = "", *, labels: str = "", fields: str = "") -> Snapshot:
        """As `list`, with the moment from which a watch goes on."""
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(_PAGE)}
        items: list[Object] = []
        while True:
            try:
                where = f"{kind.kind} {namespace}".strip()
                page = self.request("GET", self.path(kind, namespace), query=query, where=where)
            except Expired:
                # The next page of a list that was thrown away meanwhile: from the start.
                items, _ = [], query.pop("continue", "")
                continue
            # Items of a list don't say what they are.
            items += [{"apiVersion": kind.api_version, "kind": kind.kind, **item} for item in page["items"]]
            token = page["metadata"].get("continue")
            if not token:
                return Snapshot(items, page["metadata"]["resourceVersion"])
            query["continue"] = token

    def apply(self, obj: Mapping[str, Any], *, dry_run: bool = False, force: bool = False) -> Object:
        """Server-side apply, as field manager `fasttrack`: creates the object, or changes what we own of it.

        Args:
            obj: the object.
            dry_run: let everything that judges it judge, but store nothing.
            force: take over fields that others own.

        Returns:
            The object as it is now (or would be).

        Raises:
            ConfigurationError: refused by schema, webhook, quota or pod security.
            ConflictError: somebody else owns a field of it.
            NotFoundError: there is no such namespace.
            AuthorizationError: not permitted.
            UnavailableError: the API server, or a webhook, does not answer.
        """
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        return self._write("PATCH", obj, query, dry_run, content="application/apply-patch+yaml")

    def create(self, obj: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Create an object; raises as `apply`, and ConflictError if there is one of this name."""
        return self._write("POST", obj, {"fieldManager": FIELD_MANAGER}, dry_run)

    def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        wait: float = 0.0,
        grace: int | None = None,
        dry_run: bool = False,
        foreground: bool = True,
    ) -> bool:
        """Delete an object and what it owns.

        Args:
            kind: the kind.
            name: its name.
            namespace: its namespace.
            uid: delete only this very object, not a later one of the same name.
            wait: seconds to wait until it is gone; 0 returns at once.
            grace: seconds that pods get; their own by default.
            dry_run: only ask whether it may be deleted.
            foreground: what it owns goes first. Not for objects whose operators make that anew meanwhile.

        Returns:
            Whether there was one.

        Raises:
            DeadlineError: it is still there after `wait`.
            ConflictError: there is another object of this name.
            AuthorizationError: not permitted.
            UnavailableError: the API server does not answer.
        """
        policy = "Foreground" if foreground else "Background"
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy}
        options |= {"preconditions": {"uid": uid}} if uid else {}
        options |= {"gracePeriodSeconds": grace} if grace is not None else {}
        options |= {"dryRun": ["All"]} if dry_run else {}
        where = _place(kind, name, namespace)
        try:
            self.request("DELETE", self.path(kind, namespace, name), body=options, where=where)
        except NotFoundError:
            return False
        if wait and not dry_run:
            self.wait_gone(kind, name, namespace, wait, uid=uid)
        return True

    def wait_gone(self, kind: Kind, name: str, namespace: str, seconds: float, *, uid: str = "") -> None:
        """Wait until an object is gone.

        Raises:
            DeadlineError: it is still there after `seconds`.
        """
        ends = time.monotonic() + seconds
        while (found := self.find(kind, name, namespace)) is not None:
            if uid and found["metadata"]["uid"] != uid:
                return
            if time.monotonic() > ends:
                held = ", ".join(found["metadata"].get("finalizers", [])) or "nothing named"
                raise DeadlineError(
                    f"it is still there {seconds:.0f} s after it was deleted; finalizers: {held}.",
                    where=_place(kind, name, namespace),
                    fix="Look whether the controllers that hold it run.",
                )
            time.sleep(0.25)

    def watch(
        self,
        kind: Kind,
        namespace: str = "",
        *,
        name: str = "",
        labels: str = "",
        stop: threading.Event | None = None,
        on_gap: Callable[[str], None] | None = None,
    ) -> Iterator[Change]:
        """First what is there, then every change, until `stop` is set; see `fasttrack.kubeflow.cluster.stream.Watch`.

        Connection loss, an API server that restarts, and 410 Gone are survived; what changed meanwhile is told.
        """
        fields = f"metadata.name={name}" if name else ""
        return iter(Watch(self, kind, namespace, labels, fields, stop or threading.Event(), on_gap))

    def logs(self, pod: str, namespace: str, *, container: str = "", tail: int = 100, since: str = "") -> Sequence[str]:
        """The last lines of a container, each beginning with its RFC 3339 time.

        Args:
            pod: name of the pod.
            namespace: its namespace.
            container: name of the container, where there are several.
            tail: at most so many lines.
            since: RFC 3339 time: only what came then or later.

        Raises:
            As `get`; ConfigurationError while the container hasn't started.
        """
        query = {"timestamps": "true", "tailLines": str(tail), "container": container, "sinceTime": since}
        path = self.path(POD, namespace, pod) + "/log"
        # Asked of the pod's node by way of the API server: a node that is lost must not hold up the asker.
        found = self.send("GET", path, query=query, where=f"log of {pod}", timeout=_LOG_TIMEOUT)
        text: str = found.data.decode(errors="replace")
        # Not `splitlines`: a progress bar's returns don't begin a line, and what follows them has no time.
        return text.removesuffix("\n").split("\n") if text else []

    def serves(self, kind: Kind) -> bool:
        """Whether the cluster knows a kind."""
        try:
            self.resource(kind)
        except ConfigurationError:
            return False
        return True

    def version(self) -> str:
        """The API server's version, such as ``v1.34.4``."""
        return str(self.request("GET", "/version", where=self.host)["gitVersion"])

    def allowed(self, verb: str, kind: Kind, namespace: str = "", *, subresource: str = "") -> bool:
        """Whether this account may do something (a SelfSubjectAccessReview)."""
        about = {"verb": verb, "group": kind.group, "resource": self.resource(kind).plural, "namespace": namespace}
        body: Object = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": about | ({"subresource": subresource} if subresource else {})},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self.request("POST", path, body=body, where="access review")["status"]["allowed"])

    def _write(
        self, method: str, obj: Mapping[str, Any], query: dict[str, str], dry_run: bool, content: str = ""
    ) -> Object:
        kind, meta = kind_of(obj), obj["metadata"]
        name, namespace = meta.get("name", ""), meta.get("namespace", "")
        path = self.path(kind, namespace, name if method == "PATCH" else "")
        query |= {"dryRun": "All"} if dry_run else {}
        where = _place(kind, name, namespace)
        found: Object = self.request(method, path, query=query, body=dict(obj), content=content, where=where)
        return found


def _place(kind: Kind, name: str, namespace: str) -> str:
    return f"{kind.kind} {namespace}/{name}" if namespace else f"{kind.kind} {name}"
