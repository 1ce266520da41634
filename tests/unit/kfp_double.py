"""An HTTP server that answers as KFP's API server does, as far as a run is started and followed."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Kfp:
    """What it was sent, and what it says of the run, one state a question."""

    host: str = ""
    multi_user: bool = False
    states: list[dict[str, Any]] = field(default_factory=list)
    started: list[dict[str, Any]] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)
    refuse: int = 0


def run_as(state: str, tasks: dict[str, str], message: str = "") -> dict[str, Any]:
    """A run in KFP's words."""
    details = [{"display_name": name, "state": how, "task_id": name} for name, how in tasks.items()]
    found: dict[str, Any] = {
        "run_id": "kfp-1",
        "display_name": "r",
        "state": state,
        "run_details": {"task_details": details},
    }
    if message:
        found["error"] = {"code": 2, "message": message}
    return found


@contextlib.contextmanager
def kfp_server() -> Iterator[Kfp]:
    """The server, on a free port of the loopback."""
    told = Kfp()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: Any, status: int = 200) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            told.accounts.append(self.headers.get("Authorization", ""))
            path = self.path.partition("?")[0]
            if told.refuse:
                self.answer({"message": "no"}, told.refuse)
            elif path.endswith("/healthz"):
                self.answer({"multi_user": told.multi_user})
            elif path.endswith("/experiments"):
                self.answer({"experiments": [{"experiment_id": "e-1", "display_name": "flights", "namespace": ""}]})
            elif "/runs/" in path:
                self.answer(told.states.pop(0) if len(told.states) > 1 else told.states[0])
            else:
                self.answer({"message": path}, 404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path.partition("?")[0].endswith("/runs"):
                told.started.append(body)
            self.answer({"experiment_id": "e-1", "run_id": "kfp-1", "state": "PENDING"})

        def log_message(self, format: str, *arguments: Any) -> None:
            """Tests print their own words only."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.host = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
