"""The schemas of the kinds that `fasttrack compile` writes, taken from the CRDs of the versions that we support.

``definitions.json`` is made by ``python -m fasttrack.kubeflow.schemas.refresh CRDS_DIR``.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

PATH = Path(__file__).with_name("definitions.json")
#: Stands for a subtree that several schemas share.
REFERENCE = "$ref"


@lru_cache(maxsize=1)
def _content() -> dict[str, Any]:
    content: dict[str, Any] = orjson.loads(PATH.read_bytes())
    return content


def schema(api_version: str, kind: str) -> dict[str, Any] | None:
    """The schema of a kind, or None if we have none; subtrees may be references, see `resolve`."""
    found: dict[str, Any] | None = _content()["kinds"].get(f"{api_version}/{kind}")
    return found


def kinds() -> list[str]:
    """All kinds that have a schema, as ``group/version/Kind``."""
    return sorted(_content()["kinds"])


def versions() -> dict[str, str]:
    """The upstream release that each group of kinds was taken from."""
    return dict(_content()["versions"])


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """The subtree itself, if `node` refers to a shared one."""
    if REFERENCE in node:
        shared: dict[str, Any] = _content()["shared"][node[REFERENCE]]
        return shared
    return node
