"""The serving chain against a bare server of the same network: processor time a request, p50 and p99, in one run.

    python tests/bench/bench_serving.py [--seconds 3] [--rounds 3] [--connections 1,8,64] [--only predictor,hit]

Starts a platform of its own with PostgreSQL, Redis, predictor, transformer and gateway, and puts flights into Redis.
Each way is asked in turn in a closed loop from a process of its own, and this as often as there are rounds; the figures
are medians. Every answer must be a 200 of the right kind, and the first ones have the model's numbers, or it ends.

    floor             uvicorn (uvloop, httptools), orjson and torch; one encoded row of 40 inputs as JSON
    predictor JSON    the predictor alone: the same row as a V2 request in JSON
    predictor binary  the same with binary tensors, as the transformer asks
    hit               through the gateway: a prediction by key that the cache has
    miss              through gateway, transformer (features from Redis) and predictor: another key each time
    miss, in process  the same with `serving.in_process`: the transformer has the model itself; with a floor of its own

"cpu" is user and system time of the processes that serve, divided by the requests; "with stores" counts Redis and
PostgreSQL (audit and prediction rows) too. Prints a table, and one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from fasttrack.serving import rest_codec
from fasttrack.serving.tensors import Array, Tensor, to_bytes
from tests.bench.closed_loop import Job, Result
from tests.bench.serving_parts import NAME, Chain, Server, running
from tests.local_homes import running_platform

ROOT = Path(__file__).parents[2]
_STORES = ("redis", "postgres")
_WARM_SECONDS = 1.0
#: Misses a second that there are keys for.
_FASTEST = 3000
#: The audit thread writes a batch every quarter of a second; its rows are part of the requests' cost.
_SETTLE_SECONDS = 0.6
_OUTPUTS = ("probability", "value", "lower", "upper")


@dataclass
class Way:
    """One way to get a prediction.

    Attributes:
        name: in the table.
        server: who is asked.
        head: request line and headers.
        bodies: all different for a miss, otherwise repeated.
        marker: what a right answer has in it.
        numbers: those of an answer, in the order of the outputs.
        expected: the four numbers by index of the body.
        repeat: whether bodies may be sent again.
    """

    name: str
    server: Server
    head: str
    bodies: list[str]
    marker: str
    numbers: Callable[[str], list[float]]
    expected: Array
    repeat: bool = True
    sent: int = 0

    def job(self, connections: int, seconds: float) -> Job:
        """The next run."""
        bodies = self.bodies if self.repeat else self.bodies[self.sent : self.sent + int(_FASTEST * seconds)]
        return Job(self.server.port, self.head, bodies, connections, seconds, self.marker, self.repeat)

    def check(self, found: Result) -> None:
        """Compare the first answers with the model's.

        Raises:
            RuntimeError: they differ.
        """
        for index, body in found.first.items():
            got = self.numbers(body)
            wanted = self.expected[self.sent + int(index)][: len(got)]
            if not np.allclose(got, wanted, atol=1e-3, rtol=1e-4):
                raise RuntimeError(f"{self.name}: {body} should have {wanted.tolist()}")
        if not self.repeat:
            self.sent += found.requests


def ways(chain: Chain) -> list[Way]:
    """All of them, by name."""
    batch, servers = chain.batch, chain.servers
    row = batch.take(slice(0, 1)).tensors()
    inputs = [*row["numeric"][0].tolist(), *row["categorical"][0].tolist()]
    infer = f"POST /v2/models/{NAME}/infer HTTP/1.1\r\nhost: bench\r\ncontent-type: "
    tensors = [
        {"name": name, "datatype": kind, "shape": list(row[name].shape), "data": row[name].tolist()}
        for name, kind in (("numeric", "FP32"), ("categorical", "INT64"))
    ]
    body, length = _binary(tensors, row)
    asked = f"POST /v1/usecases/{NAME}/predict HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    asked += f"authorization: Bearer {chain.token}"
    flights = [json.dumps({"entity": {"flight_id": flight}}) for flight in chain.flights]
    return [
        Way(
            "floor", servers["floor"], "POST / HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json",
            [json.dumps({"inputs": inputs})], '"probability"', _bare_numbers, chain.expected,
        ),
        Way(
            "predictor JSON", servers["predictor"], f"{infer}application/json", [json.dumps({"inputs": tensors})],
            '"model_version"', _v2_numbers, chain.expected,
        ),
        Way(
            "predictor binary", servers["predictor"],
            f"{infer}application/octet-stream\r\n{rest_codec.JSON_LENGTH_HEADER}: {length}",
            [body.decode("latin-1")], '"binary_data_size"', _binary_numbers, chain.expected,
        ),
        Way("hit", servers["chain"], asked, flights[:1], '"cached":true', _numbers, chain.expected_flights),
        Way(
            "miss", servers["chain"], asked, flights, '"cached":false', _numbers, chain.expected_flights,
            repeat=False, sent=1,
        ),
    ]  # fmt: skip


def _binary(tensors: Sequence[dict[str, Any]], row: dict[str, Array]) -> tuple[bytes, int]:
    raw = [to_bytes(Tensor(tensor["name"], tensor["datatype"], row[tensor["name"]])) for tensor in tensors]
    listed = [
        {**{key: tensor[key] for key in ("name", "datatype", "shape")}, "parameters": {"binary_data_size": len(part)}}
        for tensor, part in zip(tensors, raw, strict=True)
    ]
    head = orjson.dumps({"parameters": {"binary_data_output": True}, "inputs": listed})
    return b"".join([head, *raw]), len(head)


def _bare_numbers(body: str) -> list[float]:
    # Its interval has no margin, as it doesn't know the package's calibration.
    found = orjson.loads(body)
    return [found["probability"], found["value"]]


def _v2_numbers(body: str) -> list[float]:
    found = {output["name"]: output["data"][0] for output in orjson.loads(body)["outputs"]}
    return [found[name] for name in _OUTPUTS]


def _binary_numbers(body: str) -> list[float]:
    content = body.encode("latin-1")
    return np.frombuffer(content[-16:], "<f4").tolist()


def _numbers(body: str) -> list[float]:
    found = orjson.loads(body)["prediction"]
    return [found["probability"], found["value"], found["interval"]["lower"], found["interval"]["upper"]]


def loop(way: Way, connections: int, seconds: float) -> Result:
    """One closed loop in a process of its own.

    Raises:
        RuntimeError: an answer was wrong, or the bodies did not last.
    """
    job = way.job(connections, seconds)
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.closed_loop"],
        input=orjson.dumps(asdict(job)),
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{way.name}: {done.stderr.decode()[-2000:]}")
    found = Result(**orjson.loads(done.stdout))
    way.check(found)
    return found


@dataclass(frozen=True)
class Figures:
    """Of one run; times in milliseconds a request, `parts` by process."""

    requests: int
    cpu: float
    cpu_with_stores: float
    p50: float
    p99: float
    rate: float
    parts: dict[str, float]


def measure(way: Way, connections: int, seconds: float) -> Figures:
    """One run, and what the server's processes spent on it."""
    before = way.server.cpu()
    found = loop(way, connections, seconds)
    time.sleep(_SETTLE_SECONDS)
    after = way.server.cpu()
    parts = {name: (after[name] - before[name]) / found.requests * 1000 for name in before}
    served = sum(took for name, took in parts.items() if name not in _STORES)
    rounded = {name: round(took, 4) for name, took in parts.items()}
    total = sum(parts.values())
    return Figures(found.requests, served, total, found.p50, found.p99, found.rate, rounded)


def summary(name: str, connections: int, runs: Sequence[Figures], floor: Sequence[Figures]) -> dict[str, Any]:
    """The medians of the rounds; ratios are of each round's own floor."""

    def median(values: Sequence[float]) -> float:
        return round(statistics.median(values), 3)

    return {
        "way": name,
        "connections": connections,
        "cpu_ms": median([run.cpu for run in runs]),
        "ratio": median([run.cpu / bare.cpu for run, bare in zip(runs, floor, strict=True)]),
        "cpu_ms_with_stores": median([run.cpu_with_stores for run in runs]),
        "ratio_with_stores": median([run.cpu_with_stores / bare.cpu for run, bare in zip(runs, floor, strict=True)]),
        "p50_ms": median([run.p50 for run in runs]),
        "p99_ms": median([run.p99 for run in runs]),
        "requests_a_second": median([run.rate for run in runs]),
        "requests": sum(run.requests for run in runs),
        "cpu_ms_by_part": {part: median([run.parts[part] for run in runs]) for part in runs[0].parts},
    }


def table(found: Sequence[dict[str, Any]]) -> str:
    """For a person to read."""
    head = f"{'':18}{'conn.':>6}{'cpu ms':>9}{'ratio':>8}{'with stores':>13}{'ratio':>8}"
    head += f"{'p50 ms':>9}{'p99 ms':>9}{'req/s':>8}"
    lines = [
        f"{row['way']:18}{row['connections']:6}{row['cpu_ms']:9.3f}{row['ratio']:8.2f}{row['cpu_ms_with_stores']:13.3f}"
        f"{row['ratio_with_stores']:8.2f}{row['p50_ms']:9.2f}{row['p99_ms']:9.2f}{row['requests_a_second']:8.0f}"
        for row in found
    ]
    return "\n".join([head, *lines])


def run(options: argparse.Namespace, wanted: Sequence[str], in_process: bool) -> list[dict[str, Any]]:
    """The floor and the wanted ways, at all numbers of connections."""
    counts = [int(count) for count in options.connections.split(",")]
    flights = int(options.flights or _FASTEST * options.seconds * options.rounds * len(counts) + 4000)
    found = []
    with ExitStack() as stack:
        platform = stack.enter_context(running_platform(["postgres", "redis"]))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        chain = stack.enter_context(running(platform, Path(folder), flights, in_process))
        asked = [way for way in ways(chain) if way.name == "floor" or any(part in way.name for part in wanted)]
        for way in asked:
            if way.name == "hit":
                loop(replace(way, marker='"cached":'), 1, 0.2)  # the first answer is not in the cache yet
            loop(way, 4, _WARM_SECONDS)
        for count in counts:
            runs: dict[str, list[Figures]] = {way.name: [] for way in asked}
            for _ in range(options.rounds):
                for way in asked:
                    runs[way.name].append(measure(way, count, options.seconds))
            there = ", in process" if in_process else ""
            found += [summary(name + there, count, each, runs["floor"]) for name, each in runs.items()]
            print(f"{count} connections done", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way, in turn")
    parser.add_argument("--connections", default="1,8,64", help="at a time")
    parser.add_argument("--only", default="predictor,hit,miss", help="ways, or parts of their names")
    parser.add_argument(
        "--chains", default="servers,in-process", help="where the model is: in a server of its own, or not"
    )
    parser.add_argument("--flights", type=int, help="keys in Redis; by default enough for all misses")
    options = parser.parse_args()
    wanted, found = options.only.split(","), []
    if "servers" in options.chains:
        found += run(options, wanted, in_process=False)
    if "in-process" in options.chains and "miss" in wanted:
        found += run(options, ["miss"], in_process=True)
    print(table(found))
    conditions = {"load_average": os.getloadavg(), "processors": os.cpu_count()}
    print(json.dumps({"results": found, **conditions}))


if __name__ == "__main__":
    main()
