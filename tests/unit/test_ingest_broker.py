"""A command's first contact with Kafka: what is down is told soon, what is slow or just starting is waited for."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from fasttrack.errors import ConfigurationError, DataLossError, UnavailableError
from fasttrack.ingest import access
from fasttrack.ingest import broker as broker_module
from fasttrack.ingest.broker import Broker, Offsets, Topic
from tests.loopback import free_port


def test_a_refused_connection_is_given_up_before_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "GREETING_SECONDS", 0.3)
    address = f"127.0.0.1:{free_port()}"
    # With a patience that would outlast the test.
    with pytest.raises(UnavailableError, match=f"^{address}: the Kafka broker does not answer .Connection refused"):
        Broker(address, patience=3600).greet()


def test_patience_may_be_shorter_than_the_greeting() -> None:
    with pytest.raises(UnavailableError, match="refused"):
        Broker(f"127.0.0.1:{free_port()}", patience=0).greet()


def test_a_host_that_there_is_not_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "GREETING_SECONDS", 0.3)
    with pytest.raises(UnavailableError, match=r"nowhere\.invalid:9092"):
        Broker("nowhere.invalid:9092").greet()


def test_a_broker_that_is_slow_is_not_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        Broker(f"127.0.0.1:{silent.getsockname()[1]}").greet()


def test_one_server_of_several_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        Broker(f"127.0.0.1:{free_port()},127.0.0.1:{there.getsockname()[1]}").greet()


def test_a_broker_that_just_starts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "GREETING_SECONDS", 60.0)
    port = free_port()
    opened: list[socket.socket] = []
    timer = threading.Timer(0.5, lambda: opened.append(socket.create_server(("127.0.0.1", port))))
    timer.start()
    try:
        Broker(f"127.0.0.1:{port}", patience=60).greet()
    finally:
        timer.join()
        for listener in opened:
            listener.close()


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("kafka:9093", ("kafka", 9093)),
        (" kafka ", ("kafka", 9092)),
        ("PLAINTEXT://10.0.0.1:9094", ("10.0.0.1", 9094)),
        ("[::1]:9095", ("::1", 9095)),
    ],
)
def test_addresses_are_read_as_kafka_reads_them(text: str, server: tuple[str, int]) -> None:
    assert access.server(text) == server


@pytest.mark.parametrize("text", ["", "kafka:port", "kafka:99999", ":9092", "[::1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="FASTTRACK_KAFKA"):
        Broker(f"127.0.0.1:9092,{text}").greet()


def broker_that_says(monkeypatch: pytest.MonkeyPatch, *offsets: int, patience: float = 60.0) -> Broker:
    """One that names these offsets, question by question. A real one can't be made to name none at will."""
    left, broker = list(offsets), Broker("127.0.0.1:9", patience)

    def list_offsets(asked: dict[TopicPartition, Any], **_: Any) -> dict[TopicPartition, Future[Any]]:
        answer: Future[Any] = Future()
        answer.set_result(SimpleNamespace(offset=left.pop(0) if len(left) > 1 else left[0]))
        return dict.fromkeys(asked, answer)

    monkeypatch.setattr(broker, "_admin", SimpleNamespace(list_offsets=list_offsets))
    monkeypatch.setattr(broker_module, "_RETRY_SECONDS", 0.0)
    return broker


TOPIC = Topic("orders", "an-id", 1)


def test_offsets_that_a_returning_broker_does_not_name_yet_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = broker_that_says(monkeypatch, -1001, -1001, 3, -1001, 9)
    assert broker.holding(TOPIC, 0, 5) == Offsets(3, 9)


def test_a_broker_that_never_names_them_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        broker_that_says(monkeypatch, -1001, patience=0.2).holding(TOPIC, 0, 5)


def test_a_broker_that_shows_less_than_it_has_is_waited_for_from_its_first_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert broker_that_says(monkeypatch, 0, 2, 0, 4, 0, 9).holding(TOPIC, 0, 5) == Offsets(0, 9)
    monkeypatch.setattr(broker_module, "_RECOVERY_SECONDS", 0.0)
    with pytest.raises(DataLossError, match="the broker has 0 to 2"):
        broker_that_says(monkeypatch, 0, 2, 0, 2, 0, 2).holding(TOPIC, 0, 5)
