"""A Kafka broker of a test's own, with other listeners than the local platform's."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from fasttrack.local.part import Part


@contextmanager
def answering(part: Part, changed: Mapping[str, str], more: str, client: AdminClient) -> Iterator[None]:
    """Run the broker for the duration of a ``with`` block.

    Args:
        part: as `fasttrack.local.kafka.prepare` gives it.
        changed: properties that get another value.
        more: lines that are added.
        client: who asks whether it answers.
    """
    properties = Path(part.argv[-1])
    text, log = properties.read_text(), properties.with_name("broker.log")
    for name, value in changed.items():
        text, found = re.subn(rf"(?m)^{re.escape(name)}=.*$", f"{name}={value}", text)
        assert found == 1
    properties.write_text(text + more)
    with log.open("wb") as out, subprocess.Popen(part.argv, stdout=out, stderr=out) as process:
        try:
            _await(client, process, log)
            yield
        finally:
            process.send_signal(signal.SIGTERM)


def _await(client: AdminClient, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a broker that has just been started answers."""
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if client.list_topics(timeout=2).brokers:
                return
        except KafkaException:
            assert time.monotonic() < deadline, log.read_text()[-2000:]
