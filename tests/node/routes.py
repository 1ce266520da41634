"""In place of a Gateway's controller: it says of HTTPRoutes that it took them; nothing is routed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.node import rig
from tests.node.rig import Object


@contextmanager
def accepted() -> Iterator[None]:
    """HTTPRoutes of the namespace are accepted until the block ends; KServe waits for that."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            for route in rig.listed("httproutes"):
                if not route.get("status", {}).get("parents"):
                    _accept(route)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)


def _accept(route: Object) -> None:
    meta = route["metadata"]
    true = {
        "status": "True",
        "reason": "Accepted",
        "message": "",
        "observedGeneration": meta["generation"],
        "lastTransitionTime": meta["creationTimestamp"],
    }
    conditions = [{"type": name, **true} for name in ("Accepted", "ResolvedRefs")]
    parents = [
        {"parentRef": reference, "controllerName": "fasttrack.test/routes", "conditions": conditions}
        for reference in route["spec"]["parentRefs"]
    ]
    patch = json.dumps({"status": {"parents": parents}})
    # It may have gone meanwhile.
    rig.kubectl("patch", "httproute", meta["name"], "--subresource=status", "--type=merge", "-p", patch, check=False)
