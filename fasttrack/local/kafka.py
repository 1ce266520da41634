"""Apache Kafka as one KRaft process: broker and controller in one JVM, its log kept for ever."""

from __future__ import annotations

import base64
import subprocess
import uuid
from pathlib import Path

from fasttrack.errors import UnavailableError
from fasttrack.local.jars import kafka_classpath
from fasttrack.local.jvm import java
from fasttrack.local.part import HOST, Part, listening, make_folder

_FORMAT_TIMEOUT_SECONDS = 120
_JVM_OPTIONS = (
    "-Xms64m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{broker}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@{host}:{controller}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
# Events carry their own, old times: a retention by time would delete what was just written.
log.retention.ms=-1
log.retention.bytes=-1
# One broker: no replicas to wait for, few threads, small buffers.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
offsets.retention.minutes=525600
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=2
log.cleaner.dedupe.buffer.size=2097152
# Members that start together come together: without any delay the second one waits for two rebalances.
group.initial.rebalance.delay.ms=100
# The default of two seconds is what a start would wait for.
broker.heartbeat.interval.ms=100
"""


def prepare(folder: Path, broker: int, controller: int) -> Part:
    """Write the configuration, format the storage the first time, and say how to run the broker.

    Args:
        folder: of this broker alone; its data lie in ``data``.
        broker: port for clients.
        controller: port that the process uses towards itself.

    Raises:
        IntegrityError: a jar is not the committed one.
        UnavailableError: the jars can't be fetched, or formatting failed.
        StorageError: the disk refuses.
    """
    classpath = kafka_classpath()
    data = make_folder(make_folder(folder) / "data")
    properties = folder / "server.properties"
    properties.write_text(_PROPERTIES.format(host=HOST, broker=broker, controller=controller, data=data))
    if not (data / "meta.properties").exists():
        _format(classpath, properties)
    argv = (str(java()), *_JVM_OPTIONS, "-cp", classpath, "kafka.Kafka", str(properties))
    ports = {"kafka": broker, "kafka_controller": controller}
    return Part("kafka", argv, ready=lambda: answers(broker), ports=ports, timeout=120.0, grace=30.0)


def _format(classpath: str, properties: Path) -> None:
    # Kafka's own tool: a hand-written meta.properties would pin the oldest feature levels.
    # Kafka's own tool takes an id that begins with "-" for an option.
    cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
    command = [
        str(java()),
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        _JVM_OPTIONS[-2],
        "-cp",
        classpath,
    ]
    command += ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(properties)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_FORMAT_TIMEOUT_SECONDS, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UnavailableError(
            f"Kafka's storage can't be formatted: {said[-1] if said else f'exit code {done.returncode}'}.",
            where=str(properties),
            fix="Check the disk space; if the folder was copied or damaged, remove it (its events are lost).",
        )


def answers(port: int, timeout: float = 2.0) -> bool:
    """Whether the broker on `port` gives its metadata, itself included."""
    if not listening(port):
        return False
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    client = AdminClient({"bootstrap.servers": f"{HOST}:{port}", "log_level": 0, "reconnect.backoff.max.ms": 100})
    try:
        return bool(client.list_topics(timeout=timeout).brokers)
    except KafkaException:
        return False
