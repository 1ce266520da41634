"""Whether a registry holds an image, asked from here.

OCI Distribution Specification 1.1, "Checking if content exists in the registry".
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import urllib3
from urllib3.exceptions import HTTPError

_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_SECONDS, _AT_ONCE = 3.0, 8


def held(images: Iterable[str]) -> dict[str, bool]:
    """Which images their registries have, and which they surely lack.

    A registry that does not answer, or wants credentials that are not in Docker's configuration, says nothing: its
    images are left out. It is asked about one image first, so that one that is away costs one wait.

    Args:
        images: with the host of their registry.
    """
    by_host: dict[str, list[str]] = {}
    for image in images:
        by_host.setdefault(image.partition("/")[0], []).append(image)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        firsts = [names[0] for names in by_host.values()]
        said = dict(zip(firsts, pool.map(_has, firsts), strict=True))
        others = [name for first, *more in by_host.values() if said[first] is not None for name in more]
        said |= zip(others, pool.map(_has, others), strict=True)
    return {name: has for name, has in said.items() if has is not None}


def _has(image: str) -> bool | None:
    host, _, rest = image.partition("/")
    name, reference = _split(rest)
    # As Docker does it: a registry on this machine has no certificate.
    scheme = "http" if host.partition(":")[0] in ("localhost", "127.0.0.1") else "https"
    address = f"{scheme}://{_asked_at(host)}/v2/{name}/manifests/{reference}"
    headers = {"Accept": ", ".join(_MANIFESTS)}
    timeout = urllib3.Timeout(connect=_SECONDS, read=_SECONDS)
    try:
        with urllib3.PoolManager(timeout=timeout, retries=False) as pool:
            answer = pool.request("HEAD", address, headers=headers)
            if answer.status == 401:
                granted = _authorization(pool, scheme, host, answer.headers.get("WWW-Authenticate", ""))
                if granted is None:
                    return None
                answer = pool.request("HEAD", address, headers=headers | {"Authorization": granted})
    except (HTTPError, ValueError):
        return None
    return {200: True, 404: False}.get(answer.status)


def _split(rest: str) -> tuple[str, str]:
    """Name, and digest or tag."""
    name, _, digest = rest.partition("@")
    path, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{path}{slash}{last}", digest or tag or "latest"


def _asked_at(host: str) -> str:
    return "registry-1.docker.io" if host == "docker.io" else host


def _authorization(pool: urllib3.PoolManager, scheme: str, host: str, challenge: str) -> str | None:
    """What to send after a 401: the name and password that Docker knows, or a token for them (or for nobody)."""
    basic = _known(host)
    kind, _, rest = challenge.partition(" ")
    if kind.lower() == "basic":
        return basic
    said = dict(_CHALLENGE.findall(rest))
    # A name and password don't travel in the clear because a registry says so.
    if kind.lower() != "bearer" or not said.get("realm", "").startswith(f"{scheme}://"):
        return None
    fields = {key: said[key] for key in ("service", "scope") if key in said}
    answer = pool.request("GET", said["realm"], fields=fields, headers={"Authorization": basic} if basic else {})
    document = json.loads(answer.data) if answer.status == 200 else {}
    token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
    return f"Bearer {token}" if isinstance(token, str) else None


def _known(host: str) -> str | None:
    """The ``Authorization`` that Docker's configuration has for a registry; helpers of credentials are not asked."""
    folder = os.environ.get("DOCKER_CONFIG") or "~/.docker"
    try:
        document: Any = json.loads((Path(folder).expanduser() / "config.json").read_bytes())
        auth = document["auths"]["https://index.docker.io/v1/" if host == "docker.io" else host]["auth"]
        base64.b64decode(auth, validate=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return f"Basic {auth}"
