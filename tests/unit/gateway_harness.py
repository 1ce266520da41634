"""A gateway on a real socket for tests, with an issuer of its own and a model server that can be made to fail."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec

from api_gateway.app import Gateway, assemble
from api_gateway.audit import AuditWriter
from api_gateway.deployments import Deployments
from api_gateway.experiments import Exchange, Experiments
from api_gateway.options import GatewayOptions
from api_gateway.parts import Parts
from api_gateway.protocol import deadline_protocol
from api_gateway.spool import Row, Spool
from fasttrack.errors import UnavailableError
from fasttrack.registry.records import AuditRow, Deployment, PredictionRow
from fasttrack.rollout.store import Rollouts
from fasttrack.settings import Settings
from fasttrack.usecase import dump, load

ISSUER = "https://issuer.test"
AUDIENCE = "fasttrack"
FLIGHTS = Path(__file__).parents[2] / "examples" / "flights" / "usecase.yaml"
DIGEST = "sha256:" + "a" * 64
#: Nobody listens there.
NOWHERE = "127.0.0.1:1"
ENTITY = {"entity": {"flight_id": "UA-1545-EWR-20130101T1015Z"}}


class TestIssuer:
    """Keys, their JSON Web Key Set in a file, and tokens."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.path = folder / "jwks.json"
        self.keys = {"k1": ec.generate_private_key(ec.SECP256R1())}
        self.publish()

    def publish(self, *kids: str) -> None:
        """Write the public keys, or only those named."""
        found = []
        for kid in kids or self.keys:
            jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.keys[kid].public_key()))
            found.append({**jwk, "kid": kid, "use": "sig", "alg": "ES256"})
        self.path.write_text(json.dumps({"keys": found}))

    def token(self, *roles: str, kid: str = "k1", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A good token, changed by `claims` (None removes one) and `headers`."""
        now = int(time.time())
        every: dict[str, Any] = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "alice",
            "tenant": "acme",
            "iat": now,
            "exp": now + 600,
            "roles": list(roles),
            **claims,
        }
        kept = {name: value for name, value in every.items() if value is not None}
        return jwt.encode(kept, self.keys[kid], algorithm="ES256", headers={"kid": kid, **(headers or {})})


class MemorySink:
    """Rows by id, as PostgreSQL keeps them; `up = False` makes it refuse."""

    def __init__(self) -> None:
        self.up = True
        self.rows: dict[Any, Row] = {}

    def append_audit(self, rows: Sequence[AuditRow]) -> int:
        """Keep audit rows."""
        return self._keep({row.id: row for row in rows})

    def append_predictions(self, rows: Sequence[PredictionRow]) -> int:
        """Keep predictions."""
        return self._keep({row.prediction_id: row for row in rows})

    def _keep(self, rows: dict[Any, Row]) -> int:
        if not self.up:
            raise UnavailableError("the database is away in this test.")
        self.rows.update(rows)
        return len(rows)

    def audit(self) -> list[AuditRow]:
        """The audit rows in the order of their time."""
        return sorted((row for row in self.rows.values() if isinstance(row, AuditRow)), key=lambda row: row.at)


@dataclass
class ModelServer:
    """A V2 and V1 server in a thread. Set `status`, `delay` or `body` to make it fail; `requests` keeps what came."""

    status: int = 200
    delay: float = 0.0
    body: bytes | None = None
    probability: float = 0.75
    version: int = 3
    digest: str = DIGEST
    parameters: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """Its base URL."""
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, path: str) -> bytes:
        """A good answer for the path."""
        if path.endswith(":explain"):
            found = [{"feature": f"f{i}", "value": i, "contribution": 0.1 / (i + 1)} for i in range(9)]
            return json.dumps({"explanations": [{"method": "shap", "base_value": 0.2, "attributions": found}]}).encode()
        outputs = {"probability": self.probability, "value": 21.5, "lower": -3.0, "upper": 60.0}
        tensors = [{"name": n, "datatype": "FP32", "shape": [1], "data": [v]} for n, v in outputs.items()]
        parameters = {"model_version": str(self.version), "digest": self.digest, "as_of": "2013-12-01T00:00:00Z"}
        parameters |= self.parameters
        return json.dumps({"model_name": "flights", "outputs": tensors, "parameters": parameters}).encode()


@contextmanager
def model_server(**faults: Any) -> Iterator[ModelServer]:
    """A running model server."""
    state = ModelServer(**faults)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            content = self.rfile.read(int(self.headers.get("content-length", 0)))
            state.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, content))
            time.sleep(state.delay)
            body = state.answer(self.path) if state.body is None else state.body
            try:
                self.send_response(state.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True

        do_GET = do_POST = _serve

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    state.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.server.daemon_threads = True
    thread = threading.Thread(target=state.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield state
    finally:
        state.server.shutdown()
        thread.join()
        state.server.server_close()


def signature() -> dict[str, Any]:
    """A signature with the use case's features: one required, ranges on one, known categories on one."""
    features: list[dict[str, Any]] = []
    for column in load(FLIGHTS).columns():
        feature: dict[str, Any] = {"name": column.name, "role": column.role, "nullable": column.name != "distance"}
        if column.name == "distance":
            feature |= {"minimum": 17.0, "maximum": 4983.0}
        if column.name == "origin":
            feature["categories"] = ["EWR", "JFK", "LGA"]
        features.append(feature)
    entity = {"name": "flight", "keys": ["flight_id"]}
    return {"inputs": [], "outputs": [], "features": features, "entity": entity, "positive": "late", "unit": "minutes"}


def deployment(transformer: str, explainer: str, *, name: str = "flights", **serving: Any) -> Deployment:
    """A deployment of the flights use case; `serving` replaces parts of its serving options."""
    document = dump(load(FLIGHTS))
    document["name"] = name
    document["serving"] |= serving
    return Deployment(
        usecase=name,
        version=3,
        digest=DIGEST,
        uri="/packages/x",
        signature=signature(),
        usecase_document=document,
        transformer_url=transformer,
        predictor_url=transformer,
        explainer_url=explainer,
        updated_at=datetime.now(UTC),
    )


@dataclass
class Answer:
    """A response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


@dataclass
class Running:
    """A gateway that runs, and what it is made of."""

    app: Gateway
    port: int
    issuer: TestIssuer
    sink: MemorySink

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own; bytes are sent as they are, anything else as JSON."""
        sent = {"Content-Type": "application/json"} if body is not None else {}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, content, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def predict(self, body: Any = None, **options: Any) -> Answer:
        """POST to the flights use case's predict with a predictor's token, unless another is given."""
        options.setdefault("token", self.issuer.token("flights-predictor"))
        return self.ask("POST", "/v1/usecases/flights/predict", ENTITY if body is None else body, **options)

    def raw(self, data: bytes, *, wait: float = 20.0) -> bytes:
        """Everything that the server says to `data` until it hangs up or is silent for `wait` seconds."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as connection:
            connection.sendall(data)
            return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side hangs up; a timeout of the socket is an error."""
    found = b""
    while piece := connection.recv(65536):
        found += piece
    return found


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition; fail if it doesn't come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


@contextmanager
def gateway(
    folder: Path,
    deployments: Callable[[], Sequence[Deployment]],
    *,
    redis: str = f"redis://{NOWHERE}",
    issuer: TestIssuer | None = None,
    sink: MemorySink | None = None,
    kafka: str = "",
    schema_registry: str = "",
    security: Mapping[str, str] | None = None,
    exchange: Exchange = lambda _, __: (),
    rollouts: Rollouts | None = None,
    **options: Any,
) -> Iterator[Running]:
    """Run a gateway over these deployments; without `redis` it works as if Redis were down.

    `security` are settings that name certificates; `options` those of the gateway.
    """
    issuer, sink = issuer or TestIssuer(folder), sink or MemorySink()
    dsn = f"postgresql://nobody@{NOWHERE}/none"
    settings = Settings(
        kafka=kafka,
        schema_registry=schema_registry,
        postgres=dsn,
        redis=redis,
        jwks=str(issuer.path),
        issuer=ISSUER,
        audience=AUDIENCE,
        **(security or {}),
    )
    chosen = GatewayOptions(**{"spool": folder / "spool", "audit_seconds": 0.02, "poll_seconds": 0.2, **options})
    built = Parts.build(settings, chosen)
    writer = AuditWriter(
        sink, Spool(chosen.spool), built.metrics, limit=chosen.audit_rows, seconds=chosen.audit_seconds
    )
    experiments = Experiments(exchange, built.metrics)
    parts = replace(built, deployments=Deployments(deployments), audit=writer, experiments=experiments)
    app = assemble(replace(parts, rollouts=rollouts) if rollouts else parts)
    with served(app, chosen) as port:
        yield Running(app, port, issuer, sink)


@contextmanager
def served(app: Gateway, options: GatewayOptions) -> Iterator[int]:
    """Run an app as `python -m api_gateway` does, in a thread; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=deadline_protocol(options),
        loop="uvloop",
        ws="none",
        log_config=None,
        timeout_keep_alive=int(options.keep_alive_seconds),
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        assert server.started, "the gateway did not start"
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
