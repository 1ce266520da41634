"""The gateway's part in a rollout, with two model servers and decisions that the test makes: `/v1` and `/v2` alike."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from fasttrack.rollout.arms import arm, key_bytes, place
from fasttrack.rollout.counts import Window, total
from fasttrack.rollout.plan import Plan
from fasttrack.rollout.records import Running as Rollout
from tests.unit.gateway_harness import Answer, ModelServer, Running, deployment, gateway, model_server, until
from tests.unit.test_gateway_tensors import in_binary

OTHER = "sha256:" + "b" * 64
PLENTY = {"requests": 1_000_000, "per": "1m", "burst": 100_000}
INFER = "/v2/models/flights/infer"


@dataclass
class World:
    """A gateway between a champion (version 3) and a challenger (4), and what it counted."""

    running: Running
    champion: ModelServer
    challenger: ModelServer
    rollout: Rollout
    windows: list[Window] = field(default_factory=list)

    def exchange(self, _: str, counted: Sequence[tuple[UUID, int, Window]]) -> Sequence[Rollout]:
        self.windows += [window for _, _, window in counted]
        return (self.rollout,)

    @property
    def counted(self) -> Window:
        """All that the gateway has handed in."""
        return total(self.windows, 0)

    def infer(self, *flights: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        """Infer for these flights, in one request."""
        tensor = {"name": "flight_id", "datatype": "BYTES", "shape": [len(flights)], "data": flights}
        token = self.running.issuer.token("flights-integrator")
        return self.running.ask("POST", INFER, body or {"inputs": [tensor]}, token=token, headers=headers)

    def flight(self, wanted: str) -> str:
        """A flight of an arm."""
        key = self.rollout.plan.key

        def drawn(flight: str) -> str:
            question = {"flight_id": flight}
            made = key_bytes(key, tenant="", subject="", question=question, request_id="")
            return arm(place(self.rollout.id, made), self.rollout.plan.weight(0))

        return next(flight for n in range(1000) if drawn(flight := f"f-{n}") == wanted)


@contextmanager
def world(folder: Path, **plan: Any) -> Iterator[World]:
    with model_server() as champion, model_server(version=4, digest=OTHER) as challenger:
        ours, theirs = (
            deployment(server.url, server.url, cache="0s", rate_limit=PLENTY) for server in (champion, challenger)
        )
        target = replace(theirs, version=4, digest=OTHER)
        chosen = Plan.model_validate({"mode": "ab", "steps": (50,), **plan})
        found: list[World] = []
        with gateway(folder, lambda: [ours], exchange=lambda *sent: found[0].exchange(*sent) if found else ()) as it:
            found.append(World(it, champion, challenger, Rollout(uuid4(), chosen, 0, 0.2, 60.0, target)))
            until(lambda: it.predict().json().get("experiment") is not None)
            # What was asked until then is none of the test's.
            until(lambda: asked(found[0]) > 0 and (chosen.mode != "shadow" or found[0].counted.mirror.requests > 0))
            found[0].windows.clear()
            champion.requests.clear()
            challenger.requests.clear()
            yield found[0]


def asked(it: World) -> int:
    """How often the arms' servers were asked, mirrored requests aside."""
    return it.counted.champion.requests + it.counted.challenger.requests


def said(answer: Answer) -> str:
    """The arm that a V2 answer names; empty where no rollout runs."""
    return answer.headers.get("x-experiment", "").rpartition("arm=")[2]


def test_an_entity_has_one_arm_by_predict_and_by_infer_in_json_and_binary(tmp_path: Path) -> None:
    with world(tmp_path) as it:
        arms = []
        for number in range(40):
            flight = f"f-{number}"
            predicted = it.running.predict({"entity": {"flight_id": flight}}).json()["experiment"]
            answer = it.infer(flight)
            wanted = f'rollout="{predicted["rollout"]}", mode=ab, arm={predicted["arm"]}'
            assert answer.headers["x-experiment"] == wanted
            assert answer.json()["parameters"]["model_version"] == {"champion": "3", "challenger": "4"}[said(answer)]
            body, length = binary(flight, id=str(number))
            sent = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": length}
            assert said(it.infer(body=body, headers=sent)) == predicted["arm"]
            arms.append(predicted["arm"])
        assert set(arms) == {"champion", "challenger"}
        # The same key by all three ways: it counts once.
        until(lambda: asked(it) == 120)
        for name in ("champion", "challenger"):
            assert it.counted.of(name).keys == arms.count(name)
        rows = [row for row in it.running.sink.audit() if row.route == f"POST {INFER.replace('flights', '{name}')}"]
        assert {row.model_version for row in rows} == {3, 4}


def binary(flight: str, **document: Any) -> tuple[bytes, str]:
    two = in_binary([(flight, "")], **document)
    head = json.loads(two[0][: int(two[1])])
    raw = two[0][int(two[1]) :][: head["inputs"][0]["parameters"]["binary_data_size"]]
    start = json.dumps({**head, "inputs": head["inputs"][:1]}).encode()
    return start + raw, str(len(start))


def test_a_batch_is_one_request_with_one_draw(tmp_path: Path) -> None:
    with world(tmp_path) as it:
        batches = [[f"f-{n}", f"f-{n + 1}", f"f-{n + 2}"] for n in range(30)]
        first = [said(it.infer(*batch)) for batch in batches]
        assert set(first) == {"champion", "challenger"}
        assert [said(it.infer(*batch)) for batch in batches] == first
        until(lambda: asked(it) == 60)
        assert it.counted.champion.keys + it.counted.challenger.keys == 30
        # Whole: no rows of it went to the other arm.
        sent = it.champion.requests + it.challenger.requests
        assert all(len(json.loads(body)["inputs"][0]["data"]) == 3 for _, _, body in sent)


@pytest.mark.parametrize("key", ["subject", "tenant"])
def test_a_caller_has_one_arm_on_both_routes(tmp_path: Path, key: str) -> None:
    with world(tmp_path, key=key) as it:
        arms = {said(it.infer(f"f-{n}", f"g-{n}")) for n in range(10)}
        arms |= {it.running.predict({"entity": {"flight_id": f"f-{n}"}}).json()["experiment"]["arm"] for n in range(5)}
        assert len(arms) == 1


def broken(server: ModelServer) -> None:
    server.status = 500


def refusing(server: ModelServer) -> None:
    server.status, server.body = 400, b'{"error":"no such tensor"}'


def confused(server: ModelServer) -> None:
    server.status, server.body = 409, b'{"error":"another package"}'


@pytest.mark.parametrize("fault", [broken, refusing, confused])
def test_where_the_challenger_fails_the_champion_answers(tmp_path: Path, fault: Callable[[ModelServer], None]) -> None:
    with world(tmp_path) as it:
        fault(it.challenger)
        answer = it.infer(it.flight("challenger"))
        assert (answer.status, said(answer)) == (200, "champion")
        assert answer.json()["parameters"]["model_version"] == "3"
        until(lambda: it.counted.challenger.requests == 1)
        assert (it.counted.challenger.failures, it.counted.challenger.first_failures) == (1, 1)
        assert it.counted.champion.requests == 0


def test_what_both_refuse_is_the_requests_fault_and_passes_as_it_is(tmp_path: Path) -> None:
    with world(tmp_path) as it:
        for server in (it.champion, it.challenger):
            refusing(server)
        for name in ("champion", "challenger"):
            answer = it.infer(it.flight(name))
            assert (answer.status, answer.body, said(answer)) == (400, b'{"error":"no such tensor"}', "champion")
        until(lambda: it.counted.champion.requests == 1)
        assert (it.counted.champion.failures, it.counted.challenger.requests) == (0, 0)


def test_a_challenger_that_takes_more_than_its_half_has_failed(tmp_path: Path) -> None:
    with world(tmp_path) as it:
        it.challenger.delay = 0.6
        answer = it.infer(it.flight("challenger"), headers={"X-Request-Deadline-Ms": "1000"})
        assert (answer.status, said(answer)) == (200, "champion")
        until(lambda: it.counted.challenger.failures == 1)


def test_latency_is_counted_for_tensors_too(tmp_path: Path) -> None:
    with world(tmp_path) as it:
        it.challenger.delay = 0.3
        assert it.infer(it.flight("challenger")).status == 200
        until(lambda: it.counted.challenger.requests == 1)
        assert (it.counted.challenger.keys_slow, it.counted.challenger.first_slow) == (1, 1)


def rows(*values: float, name: str = "probability") -> bytes:
    outputs = [{"name": name, "datatype": "FP32", "shape": [len(values)], "data": values}]
    return json.dumps({"outputs": outputs}).encode()


def test_in_shadow_all_rows_of_both_answers_are_compared(tmp_path: Path) -> None:
    with world(tmp_path, mode="shadow") as it:
        it.champion.body, it.challenger.body = rows(0.25, 0.5, 0.75), rows(0.5, 0.5, 0.5)
        answer = it.infer("a", "b", "c")
        assert (answer.status, answer.body, said(answer)) == (200, it.champion.body, "champion")
        until(lambda: it.counted.mirror.requests == 1)
        mirror = it.counted.mirror
        assert (mirror.failures, mirror.rows, mirror.disagreements, mirror.difference) == (0, 3, 1, 0.5)
        assert it.challenger.requests[0][2] == it.champion.requests[0][2]
        # One that leaves rows out has failed, and outputs that were not asked for can't be compared.
        it.challenger.body = rows(0.5)
        it.infer("a", "b", "c")
        until(lambda: it.counted.mirror.failures == 1)
        it.champion.body = it.challenger.body = rows(20, 30, 40, name="value")
        it.infer("a", "b", "c")
        until(lambda: it.counted.mirror.requests == 3)
        assert (it.counted.mirror.failures, it.counted.mirror.rows) == (1, 3)


def test_mirrored_bodies_may_not_fill_the_memory(tmp_path: Path) -> None:
    with world(tmp_path, mode="shadow") as it:
        it.challenger.delay = 1.0
        body = json.dumps({"inputs": []}).encode() + b" " * 9_000_000
        asking = [threading.Thread(target=it.infer, kwargs={"body": body}) for _ in range(3)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        until(lambda: it.counted.mirror.requests + it.counted.mirror.dropped == 3)
        assert 1 <= it.counted.mirror.dropped <= 2


def test_without_a_rollout_nothing_is_said_and_nothing_counted(tmp_path: Path) -> None:
    with model_server() as server, gateway(tmp_path, lambda: [deployment(server.url, server.url)]) as running:
        token = running.issuer.token("flights-integrator")
        answer = running.ask("POST", INFER, {"inputs": []}, token=token)
        assert answer.status == 200
        assert "x-experiment" not in answer.headers
