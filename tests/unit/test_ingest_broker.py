"""A command's first contact with Kafka: what is down is told soon, what is slow or just starting is waited for."""

from __future__ import annotations

import socket
import threading

import pytest

from fasttrack.errors import ConfigurationError, UnavailableError
from fasttrack.ingest import access
from fasttrack.ingest import broker as broker_module
from fasttrack.ingest.broker import Broker
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
