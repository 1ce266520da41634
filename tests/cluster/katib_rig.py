"""Katib of ../shared/cluster with other settings: half of them its controller reads only when it starts."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.cluster.kubectl import Kubectl, Object

FILE = "katib-config.yaml"
OURS = Path(__file__).parents[2] / "manifests/kustomize/platform/katib" / FILE
_KATIB = Kubectl("kubeflow")
#: What belongs to the machine, not to Katib's behaviour.
_ADDRESSES = ("webhookPort", "metricsAddr", "healthzAddr")


def ours() -> Object:
    """The settings that manifests/kustomize/platform/katib brings."""
    found: Object = yaml.safe_load(OURS.read_text())
    return found


def in_force() -> Object:
    """What the cluster's ConfigMap says; {} where there is none."""
    found = _KATIB.get("configmap", "katib-config") or {}
    return dict(yaml.safe_load(found.get("data", {}).get(FILE, "{}")))


def home() -> Path | None:
    """The folder of ../shared/cluster, where that runs the Katib of KUBECONFIG's cluster as a process."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    server = _server(Path(os.environ["KUBECONFIG"]))
    for folder in (os.environ.get("FASTTRACK_CLUSTER_HOME"), cache / "fasttrack-cluster"):
        if folder and (Path(folder) / "run/katib.pid").exists() and _server(Path(folder) / "kubeconfig") == server:
            return Path(folder)
    return None


def _server(kubeconfig: Path) -> str:
    read: Any = yaml.safe_load(kubeconfig.read_text()) if kubeconfig.exists() else {"clusters": [{"cluster": {}}]}
    return str(read["clusters"][0]["cluster"].get("server"))


@contextmanager
def settings(folder: Path, config: Object, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Katib as `config` says until the block ends; then as it was.

    Args:
        folder: of ../shared/cluster; see `home`.
        config: a KatibConfig.
        environment: variables of the controller that differ.
    """
    before = in_force()
    running = psutil.Process(json.loads((folder / "run/katib.pid").read_text())["pid"])
    argv, given = running.cmdline(), running.environ()
    flag = next(word for word in argv if word.startswith("--katib-config="))
    path = folder / "operators/katib/tested.yaml"
    path.write_text(yaml.safe_dump(_init(config, yaml.safe_load(Path(flag.partition("=")[2]).read_text()))))
    _stop(running)
    _put(config)
    made = _start(folder, [f"--katib-config={path}" if word == flag else word for word in argv], given, environment)
    try:
        yield
    finally:
        _stop(made)
        _put(before)
        _start(folder, argv, given)


def _init(config: Object, given: Object) -> Object:
    """The part that is read at the start, with the addresses of this machine."""
    own = {name: value for name, value in given["init"]["controller"].items() if name in _ADDRESSES}
    controller = config["init"]["controller"] | own
    return given | {"init": {"certGenerator": given["init"]["certGenerator"], "controller": controller}}


def _put(config: Object) -> None:
    data = {FILE: yaml.safe_dump(config)}
    _KATIB.run("delete", "configmap", "katib-config", "--ignore-not-found")
    _KATIB.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "katib-config"}, "data": data})


def _stop(process: psutil.Process) -> None:
    process.terminate()
    ends = time.monotonic() + 30
    # Not `wait`: a process that nobody has asked for its end stays as a zombie.
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < ends, f"process {process.pid} does not end"
        time.sleep(0.1)


def _start(
    folder: Path, argv: list[str], given: Mapping[str, str], more: Mapping[str, str] | None = None
) -> psutil.Process:
    with (folder / "logs/katib.log").open("ab") as log:
        made = psutil.Popen(
            argv,
            env={**given, **(more or {})},
            cwd=folder / "operators/katib",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    # As ../shared/cluster writes it, so that its `down` ends this one too.
    ticks = int(Path(f"/proc/{made.pid}/stat").read_text().rpartition(")")[2].split()[19])
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (folder / "run/katib.pid").write_text(json.dumps({"pid": made.pid, "start": ticks, "boot": boot}))
    health = json.loads((folder / "ports.json").read_text())["katib/health"]
    ends = time.monotonic() + 90
    while not _ready(f"http://127.0.0.1:{health}/readyz"):
        assert made.poll() is None and time.monotonic() < ends, f"Katib is not ready; see {folder}/logs/katib.log"
        time.sleep(0.2)
    return made


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
