"""An HTTP server that answers as KFP's API server does, as far as a run is started, scheduled and followed.

What it is sent and what it answers is held against the models of KFP's own client: a test that uses it fails if either
is not what the API says.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from tests.unit.kfp_contract import asked, breaches


@dataclass
class Kfp:
    """What it was sent, and what it says of the run, one state a question.

    Attributes:
        breaches: what was not as the API says.
    """

    host: str = ""
    multi_user: bool = False
    states: list[dict[str, Any]] = field(default_factory=list)
    started: list[dict[str, Any]] = field(default_factory=list)
    scheduled: dict[str, dict[str, Any]] = field(default_factory=dict)
    accounts: list[str] = field(default_factory=list)
    refuse: int = 0
    breaches: list[str] = field(default_factory=list)


def run_as(
    state: str, tasks: dict[str, str], message: str = "", *, history: tuple[str, ...] = (), drivers: str = "SUCCEEDED"
) -> dict[str, Any]:
    """A run in KFP's words. To its server each node of Argo's is a task: the workflow, its graphs, and each driver.

    Args:
        state: how the run stands.
        tasks: the state of each step; the graphs around them stand as the run does.
        message: KFP's reason.
        history: the states that the run had before.
        drivers: how the drivers of the steps stand.
    """
    around = {"flights-training-x7k2p": state, "root-driver": "SUCCEEDED", "root": state}
    around |= {"exit-handler-1-driver": "SUCCEEDED", "exit-handler-1": state, "exit-handler-1.onExit": "RUNNING"}
    nodes = [*around.items()]
    for name, how in tasks.items():
        nodes += [(f"{name}-driver", drivers), (name, how), ("executor", how)]
    details = [
        {"display_name": name, "state": how, "start_time": f"2026-01-01T00:00:{second:02}Z"}
        for second, (name, how) in enumerate(nodes)
    ]
    found: dict[str, Any] = {
        "run_id": "kfp-1",
        "display_name": "r",
        "state": state,
        "state_history": [{"state": each} for each in (*history, state)],
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
        def answer(self, body: Any, status: int = 200, *, sent: Any = None) -> None:
            call, wrong = asked(self.command, self.path, sent)
            model = "GoogleRpcStatus" if status != 200 else call.answer if call else "object"
            told.breaches += wrong + breaches(body, model)
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
            elif path.endswith("/recurringruns"):
                self.answer({"recurringRuns": [{"recurring_run_id": k, **v} for k, v in told.scheduled.items()]})
            elif path.endswith("/experiments"):
                known = [{"experiment_id": "e-1", "display_name": "flights", "namespace": ""}]
                self.answer({"experiments": known} if '"flights"' in unquote(self.path) else {})
            elif "/runs/" in path:
                self.answer(told.states.pop(0) if len(told.states) > 1 else told.states[0])
            else:
                self.answer({"message": path}, 404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            made: dict[str, Any] = {"experiment_id": "e-2", "display_name": body["display_name"]}
            if self.path.partition("?")[0].endswith("/runs"):
                told.started.append(body)
                made = {"experiment_id": body["experiment_id"], "run_id": "kfp-1", "state": "PENDING"}
            if self.path.partition("?")[0].endswith("/recurringruns"):
                identity = f"s-{len(told.scheduled)}-{body['display_name']}"
                told.scheduled[identity] = body
                made = {"recurring_run_id": identity, **body}
            self.answer(made, sent=body)

        def do_DELETE(self) -> None:
            del told.scheduled[self.path.rpartition("/")[2]]
            self.answer({})

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
    assert not told.breaches, told.breaches
