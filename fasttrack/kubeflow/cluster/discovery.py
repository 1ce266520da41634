"""What an API server serves, and under which paths."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, NamedTuple

from fasttrack.errors import ConfigurationError, NotFoundError
from fasttrack.kubeflow.cluster.kinds import Kind
from fasttrack.kubeflow.cluster.transport import Transport


class Resource(NamedTuple):
    """How the API server calls a kind: its plural, and whether its objects lie in namespaces."""

    plural: str
    namespaced: bool


class Discovery(Transport):
    """Knows the kinds of a cluster; asks once for each API group."""

    def __init__(self, api: Any, patience: float = 60.0) -> None:
        super().__init__(api, patience)
        self._resources: dict[str, dict[str, Resource]] = {}

    def resource(self, kind: Kind) -> Resource:
        """How the API server calls a kind.

        Raises:
            ConfigurationError: it doesn't know it.
        """
        known = self._resources.get(kind.api_version, {})
        if kind.kind not in known:
            self._resources[kind.api_version] = known = self._discover(kind)
        if kind.kind not in known:
            others = f" It knows {', '.join(sorted(known)[:8])} there." if known else ""
            raise ConfigurationError(
                f"the cluster doesn't know the kind {kind}.{others}",
                where=self.host,
                fix="Install its operator in this version (manifests/kustomize/platform), or see `doctor --cluster`.",
            )
        return known[kind.kind]

    def _discover(self, kind: Kind) -> dict[str, Resource]:
        path = f"/apis/{kind.api_version}" if kind.group else f"/api/{kind.api_version}"
        try:
            found = self.request("GET", path, where=kind.api_version)["resources"]
        except NotFoundError:
            return {}
        return {item["kind"]: Resource(item["name"], item["namespaced"]) for item in found if "/" not in item["name"]}

    def path(self, kind: Kind, namespace: str = "", name: str = "") -> str:
        """The URL path of a kind's collection, or of one object."""
        plural, namespaced = self.resource(kind)
        root = PurePosixPath("/apis" if kind.group else "/api") / kind.api_version
        inside = root / "namespaces" / namespace if namespaced and namespace else root
        return str(inside / plural / name)
