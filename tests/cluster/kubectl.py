"""kubectl against the cluster that KUBECONFIG names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Object = dict[str, Any]
T = TypeVar("T")

HOW_TO_START = (
    "KUBECONFIG names no cluster. Start one for tests, such as `kind create cluster` with the operators of "
    'manifests/kustomize/platform, or, where ../shared/cluster is: eval "$(../shared/cluster/up '
    '--operators trainer,spark,katib,kserve,argo,kwok)"'
)


def program() -> list[str]:
    """kubectl of the PATH, or the one that ../shared/cluster builds."""
    if found := shutil.which("kubectl"):
        return [found]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for home in (os.environ.get("FASTTRACK_CLUSTER_HOME"), cache / "fasttrack-cluster"):
        if home and (Path(home) / "bin/ftcp").exists():
            return [str(Path(home) / "bin/ftcp"), "kubectl"]
    raise FileNotFoundError("there is no kubectl: put one into the PATH")


class Refused(Exception):
    """kubectl ended with an error; the text is what it said."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl, in one namespace if it is given."""

    namespace: str = ""

    def run(self, *arguments: str, given: str | None = None, seconds: float = 180) -> subprocess.CompletedProcess[str]:
        """Run it, whatever comes of it."""
        space = ["--namespace", self.namespace] if self.namespace else []
        return subprocess.run(
            [*program(), *space, *arguments],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            text=True,
            capture_output=True,
            timeout=seconds,
        )

    def __call__(self, *arguments: str, given: str | None = None, seconds: float = 180) -> str:
        """What it prints; an error is raised as `Refused`."""
        done = self.run(*arguments, given=given, seconds=seconds)
        if done.returncode:
            raise Refused(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def apply(self, *objects: Object) -> str:
        """Apply objects server-side; returns the warnings."""
        done = self.run("apply", "--server-side", "-f", "-", given=documents(*objects))
        if done.returncode:
            raise Refused(done.stderr.strip())
        return done.stderr

    def would_take(self, *objects: Object) -> None:
        """Let admission and webhooks judge new objects, without keeping them."""
        self("create", "--dry-run=server", "-f", "-", given=documents(*objects))

    def get(self, kind: str, name: str) -> Object | None:
        """An object, or None."""
        text = self("get", kind, name, "--output=json", "--ignore-not-found")
        return json.loads(text) if text else None

    def list(self, kind: str, labels: str = "") -> list[Object]:
        """Objects of a kind."""
        found: list[Object] = json.loads(self("get", kind, "--output=json", f"--selector={labels}"))["items"]
        return found


def documents(*objects: Object) -> str:
    """Objects as kubectl reads them from a file."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


def until(ask: Callable[[], T], what: str, seconds: float = 60) -> T:
    """What `ask` answers, as soon as that is something."""
    end = time.monotonic() + seconds
    while True:
        if found := ask():
            return found
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.3)
