"""What `bench_serving` measures: a signed package of a model with 40 inputs, flights in Redis, and real servers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import pyarrow as pa
from deltalake import write_deltalake

from fasttrack import usecase as usecases
from fasttrack.features.online import materialize
from fasttrack.lake import tables
from fasttrack.lake.schemas import raw_schema
from fasttrack.local.platform import Platform
from fasttrack.models import Batch
from fasttrack.models.inference import Predictor
from fasttrack.registry import keys, package
from fasttrack.registry.store import Registry
from fasttrack.serving.tensors import Array
from fasttrack.settings import Settings
from fasttrack.training.data import Rows
from fasttrack.usecase import UseCase
from tests.integration import gateway_processes, serving_online, serving_package, serving_processes
from tests.loopback import free_port
from tests.unit.gateway_harness import TestIssuer

ROOT = Path(__file__).parents[2]
NAME = serving_processes.NAME
INPUTS = 40
_DROPPED = (
    "recent_flights", "weather", "origin_cancellations", "carrier_arrival_delay", "aircraft_last_departure", "seats",
)  # fmt: skip
_LIMIT = {"requests": 1_000_000, "per": "1s", "burst": 1_000_000}
_ROWS = 2000


@dataclass
class Server:
    """A server under load: where it answers, and its processes by what they are."""

    port: int
    processes: dict[str, psutil.Process]

    def cpu(self) -> dict[str, float]:
        """Seconds of user and system time so far, of ended children too, by what the process is."""
        found = {}
        for name, process in self.processes.items():
            total = 0.0
            for each in [process, *process.children(recursive=True)]:
                try:
                    took = each.cpu_times()
                except psutil.NoSuchProcess:
                    continue  # its parent has its time now
                total += took.user + took.system + took.children_user + took.children_system
            found[name] = total
        return found


@dataclass
class Chain:
    """Everything that is measured.

    Attributes:
        servers: by name; `chain` is the gateway with all behind it.
        flights: keys that are in Redis.
        token: of a caller who may predict.
        batch: the encoded rows that the predictor and the floor are asked for.
        expected: what the model says, four numbers a row: of `batch`, and of `flights`.
    """

    servers: dict[str, Server]
    flights: list[str]
    token: str
    batch: Batch
    expected: Array
    expected_flights: Array


def usecase() -> UseCase:
    """The flights example with 40 feature columns, none of them a sequence, and a limit that nobody reaches."""
    document = usecases.dump(usecases.load(serving_package.USECASE_FILE))
    for name in _DROPPED:
        del document["features"][name]
        document["quality"]["allow_missing"].pop(name, None)
    document["quality"]["allow_missing"].pop("weather_wind_gust", None)
    document["serving"]["rate_limit"] = _LIMIT
    found = UseCase.model_validate(document)
    if len(found.columns()) != INPUTS:
        raise RuntimeError(f"the use case has {len(found.columns())} columns, not {INPUTS}")
    return found


def rows(case: UseCase, seed: int = 0) -> Rows:
    """Made-up rows without gaps, so that the model has no inputs that tell of gaps."""
    random = np.random.default_rng(seed)
    words = {"carrier": ["AA", "B6", "UA"], "origin": ["EWR", "JFK", "LGA"], "destination": ["LAX", "ORD", "SFO"]}
    columns: dict[str, Array] = {
        column.name: random.choice(words.get(column.name, list("0123456")), _ROWS).astype(object)
        if column.role == "category"
        else random.gamma(2.0, 10.0, _ROWS).astype(np.float32)
        for column in case.columns()
    }
    label = 0.8 * columns["origin_departure_delay_mean_1h"] + 10 * (columns["carrier"] == "B6")
    label = (label - 10 + random.normal(0, 30, _ROWS)).astype(np.float32)
    moment = np.arange(_ROWS, dtype=np.int64)
    return Rows(columns, label, (label > 15).astype(np.float32), moment, moment)


def fill(case: UseCase, settings: Settings, count: int) -> list[str]:
    """Put flights with their features into Redis, through lake, kernel and Feast; their keys."""
    given = serving_online.events()
    (first,) = given["scheduled"]
    flights = [f"B6-{number}-JFK-1" for number in range(count)]
    given["scheduled"] = [
        {
            **first, "event_id": f"s-{at}", "flight_id": flight, "number": at % 9999 + 1,
            "distance": 1 + at % 89, "scheduled_minutes": 20 + at % 61,
        }
        for at, flight in enumerate(flights)
    ]  # fmt: skip
    for stream, events in given.items():
        schema = raw_schema(case.streams[stream])
        path = tables.raw_path(settings, case, stream)
        tables.ensure(path, schema)
        if events:
            write_deltalake(path, pa.Table.from_pylist(events, schema=schema), mode="append")
    materialize(case, settings, serving_online.AS_OF)
    return flights


@contextmanager
def running(platform: Platform, folder: Path, flights: int, in_process: bool = False) -> Iterator[Chain]:
    """Publish the model, fill Redis, start the floor, predictor, transformer and gateway; ended at the end.

    With `in_process` the transformer has the model itself, and the predictor is only asked alone.
    """
    settings, case = platform.settings(), usecase()
    # Not Settings' own file name for a use case: servers read it from where they are told.
    document = folder / "usecase.yaml"
    document.write_text(usecases.canonical_text(case))
    path, digest, verify = _package(case, folder)
    known = fill(case, settings, flights)
    issuer = TestIssuer(folder)
    environment = {**settings.to_environment(), "FASTTRACK_VERIFY_KEY": str(verify)}
    with ExitStack() as stack:
        bare = stack.enter_context(_bare(path))
        start = serving_processes.started
        predictor = stack.enter_context(start("predictor", path, environment, folder))
        serving_processes.wait_ready(predictor)
        alone, beside = ("--predictor_protocol", "in-process"), ("--predictor_host", f"127.0.0.1:{predictor.http}")
        flags = ("--usecase", str(document), *(alone if in_process else beside))
        transformer = stack.enter_context(start("transformer", path, environment, folder, *flags))
        serving_processes.wait_ready(transformer)
        _deploy(settings, case, path, digest, transformer.url)
        served = gateway_processes.settings_for(platform, settings.postgres, issuer)
        gateway = stack.enter_context(gateway_processes.process(served, folder, issuer))
        processes = {
            "gateway": psutil.Process(gateway.popen.pid),
            "transformer": psutil.Process(transformer.process.pid),
            "predictor": psutil.Process(predictor.process.pid),
            **_stores(),
        }
        asked_alone = processes.pop("predictor") if in_process else processes["predictor"]
        servers = {
            "floor": bare,
            "predictor": Server(predictor.http, {"predictor": asked_alone}),
            "predictor gRPC": Server(predictor.grpc, {"predictor": asked_alone}),
            "chain": Server(gateway.port, processes),
        }
        token = issuer.token("flights-predictor", exp=int(time.time()) + 24 * 3600)
        files = package.load_verified(path, verify.read_bytes())
        model = Predictor.from_files(files)
        batch = model.encoder.encode({name: values[:64] for name, values in rows(case).columns.items()})
        answers = _asked(case, settings, model, known)
        yield Chain(servers, known, token, batch, _numbers(model, batch), answers)


def _asked(case: UseCase, settings: Settings, model: Predictor, flights: list[str]) -> Array:
    from fasttrack.features.online import OnlineStore

    names = [column.name for column in case.columns()]
    found = []
    for start in range(0, len(flights), 1000):
        read = OnlineStore(case, settings).read([{"flight_id": flight} for flight in flights[start : start + 1000]])
        found.append(_numbers(model, model.encoder.encode({name: [row[name] for row in read] for name in names})))
    return np.concatenate(found)


def _numbers(model: Predictor, batch: Batch) -> Array:
    said = model.predict(batch)
    return np.stack([said.probability, said.value, said.lower, said.upper], axis=1)


def _package(case: UseCase, folder: Path) -> tuple[Path, str, Path]:
    private, public = keys.new_key_pair()
    verify = folder / "verify.pem"
    verify.write_bytes(public)
    made = package.build(serving_package.content(case, rows(case)), private)
    return package.write(made, folder / "packages"), made.digest, verify


def _deploy(settings: Settings, case: UseCase, path: Path, digest: str, transformer: str) -> None:
    registry = Registry(settings.require("postgres"))
    try:
        registry.migrate()
        version = registry.register_model(NAME, str(path), digest=digest)
        signature: Mapping[str, Any] = orjson.loads((path / "signature.json").read_bytes())
        urls = dict.fromkeys(("transformer_url", "predictor_url", "explainer_url"), transformer)
        registry.deploy(NAME, version.version, signature=signature, usecase_document=usecases.dump(case), **urls)
    finally:
        registry.close()


def _stores() -> dict[str, psutil.Process]:
    """Redis and PostgreSQL of this process' platform."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        for name in ("redis", "postgres"):
            if process.name().startswith(name) and name not in found:
                found[name] = process
    if len(found) != 2:
        raise RuntimeError(f"Redis and PostgreSQL are not both among the processes, only {sorted(found)}")
    return found


@contextmanager
def _bare(path: Path) -> Iterator[Server]:
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    popen = subprocess.Popen([sys.executable, "-m", "tests.bench.bare_server", str(path), str(port)], env=environment)
    try:
        process = psutil.Process(popen.pid)
        while not any(each.status == psutil.CONN_LISTEN for each in process.connections()):
            if popen.poll() is not None:
                raise RuntimeError(f"the floor ended with {popen.returncode}")
            time.sleep(0.1)
        yield Server(port, {"floor": process})
    finally:
        popen.kill()
        popen.wait()
