"""The local platform answers real clients, remembers its data, and shares a machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from fasttrack.errors import ConflictError, NotFoundError, UnavailableError
from fasttrack.local import control, jars
from fasttrack.local.doctor import examine
from fasttrack.local.jvm import java_home
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings

ROOT = Path(__file__).parents[2]
_USECASE = ROOT / "examples/flights/usecase.yaml"


def produce(settings: Settings, topic: str, values: list[bytes]) -> None:
    failed: list[object] = []
    producer = Producer({"bootstrap.servers": settings.kafka, "enable.idempotence": True})
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: failed.append(error))
    producer.flush(30)
    assert failed == [None] * len(values)


def consume(settings: Settings, topic: str) -> list[bytes]:
    """All that the topic holds, sorted."""
    options = {"bootstrap.servers": settings.kafka, "group.id": topic, "enable.partition.eof": True}
    consumer = Consumer(options)
    try:
        partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        found: list[bytes] = []
        ends = 0
        while ends < len(partitions):
            message = consumer.poll(30)
            assert message is not None
            if (failure := message.error()) is None:
                found.append(message.value() or b"")
            else:
                assert failure.code() == KafkaError._PARTITION_EOF, failure
                ends += 1
        return sorted(found)
    finally:
        consumer.close()


def rows(settings: Settings, *statements: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(settings.postgres)
    try:
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall()
    finally:
        connection.close()


def test_kafka_carries_messages(platform: Platform, topic: str) -> None:
    produce(platform.settings(), topic, [b"one", b"two"])
    assert consume(platform.settings(), topic) == [b"one", b"two"]


def test_postgres_needs_its_password_and_speaks_utf8(platform: Platform) -> None:
    settings = platform.settings()
    assert rows(settings, "SELECT current_setting('server_encoding'), upper('é'), current_user") == [
        ("UTF8", "É", "fasttrack")
    ]
    password = settings.postgres.split(":")[2].split("@")[0]
    with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
        psycopg2.connect(settings.postgres.replace(password, "wrong"))


def test_redis_stores_values(platform: Platform) -> None:
    client = redis.Redis.from_url(platform.settings().redis)
    client.set("key", b"value")
    assert client.get("key") == b"value"


def test_every_part_listens_on_loopback_only(platform: Platform) -> None:
    parts = platform.status()
    assert {part.state for part in parts} == {"running"}
    listening = [
        connection.laddr.ip
        for part in parts
        for process in [psutil.Process(part.pid), *psutil.Process(part.pid).children(recursive=True)]
        for connection in process.connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 5
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_environment_is_all_that_another_process_needs(platform: Platform) -> None:
    environment = platform.environment()
    assert Settings.from_environment(environment) == platform.settings()
    assert environment["FASTTRACK_HOME"] == str(platform.home.root)
    assert all(Path(jar).is_file() for jar in environment["FASTTRACK_SPARK_JARS"].split(","))
    # As Spark's launchers call it, with a module that the runtime lacks.
    command = [f"{environment['JAVA_HOME']}/bin/java", "--add-modules=jdk.incubator.vector", "-version"]
    assert "21." in subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_private_keys_are_private(platform: Platform) -> None:
    settings = platform.settings()
    assert Path(settings.signing_key).stat().st_mode & 0o777 == 0o600
    assert Path(settings.signing_key).parent.stat().st_mode & 0o077 == 0
    assert (platform.home / "control.json").stat().st_mode & 0o777 == 0o600


def test_other_processes_see_the_platform(platform: Platform) -> None:
    assert {part.name: part.state for part in control.status(platform.home.root)} == dict.fromkeys(
        ("kafka", "postgres", "redis", "schema_registry"), "running"
    )


def test_a_second_start_of_the_same_home_is_refused(platform: Platform) -> None:
    with pytest.raises(ConflictError, match=f"is up .process {os.getpid()}.*fasttrack down"):
        Platform(platform.home.root).start(["redis"])
    assert {part.state for part in platform.status()} == {"running"}


def test_up_of_a_running_platform_is_fine(platform: Platform, capfd: pytest.CaptureFixture[str]) -> None:
    before = [part.pid for part in platform.status()]
    control.up(platform.home.root)
    assert "up already" in capfd.readouterr().err
    assert [part.pid for part in platform.status()] == before


def test_a_second_platform_runs_beside_the_first(platform: Platform, home: Path) -> None:
    control.up(home, ["postgres", "redis"])
    other = Platform(home).settings()
    redis.Redis.from_url(other.redis).set("whose", "second")
    redis.Redis.from_url(platform.settings().redis).set("whose", "first")
    assert redis.Redis.from_url(other.redis).get("whose") == b"second"
    assert rows(other, "SELECT 1") == rows(platform.settings(), "SELECT 1")
    assert control.down(home)
    assert redis.Redis.from_url(platform.settings().redis).get("whose") == b"first"


def test_data_outlive_a_restart(home: Path) -> None:
    parts = ["kafka", "postgres", "redis"]
    with_parts = Platform(home)
    with_parts.start(parts)
    try:
        settings = with_parts.settings()
        admin = AdminClient({"bootstrap.servers": settings.kafka})
        admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(30)
        produce(settings, "kept", [b"a", b"b", b"c"])
        rows(settings, "CREATE TABLE kept (x int)", "INSERT INTO kept VALUES (7)", "SELECT 1")
        redis.Redis.from_url(settings.redis).set("kept", 7)
    finally:
        with_parts.stop()
    assert {part.state for part in control.status(home)} == {"stopped"}
    again = Platform(home)
    again.start(parts)
    try:
        assert again.settings() == settings
        assert consume(settings, "kept") == [b"a", b"b", b"c"]
        assert rows(settings, "SELECT x FROM kept") == [(7,)]
        assert redis.Redis.from_url(settings.redis).get("kept") == b"7"
    finally:
        again.stop()


def test_a_remembered_port_that_was_taken_is_replaced(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    control.up(home, ["redis"])
    control.down(home)
    before = Platform(home)._state.ports["redis"]
    with socket.create_server(("127.0.0.1", before)):
        control.up(home, ["redis"])
        after = Platform(home)._state.ports["redis"]
        assert after != before
        assert f"Port {before} of redis is taken" in capfd.readouterr().err
        assert redis.Redis(port=after).ping()


def test_a_fixed_port_that_is_taken_is_an_error_that_says_so(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConflictError, match=f"port {port}, fixed for redis, is taken.*FASTTRACK_PORT_REDIS"):
            Platform(home, ports={"redis": port}).start(["redis"])
    assert not control.down(home)


def test_a_stopped_platform_says_how_to_start_it(home: Path) -> None:
    with pytest.raises(UnavailableError, match=r"not up.*fasttrack up"):
        control.publish(home, "model", ROOT / "README.md", ROOT)
    with pytest.raises(NotFoundError, match="kafka, postgres"):
        Platform(home).start(["kafak"])


def test_publishing_what_does_not_exist_is_refused_across_processes(platform: Platform) -> None:
    with pytest.raises(NotFoundError, match="/nowhere"):
        control.publish(platform.home.root, "model", "/nowhere/usecase.yaml", "/nowhere/package")


def test_a_model_server_that_cannot_start_shows_its_log(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    with pytest.raises(UnavailableError, match=r"model-\w+-a ended at once.*log ends with"):
        control.publish(platform.home.root, "model", _USECASE, tmp_path / "package")
    assert all("model" not in part.name for part in platform.status())
    assert platform._state.publications == {}


def test_doctor_finds_the_running_parts_well(platform: Platform) -> None:
    found = {finding.name: finding for finding in examine(platform.home.root)}
    assert {"python", "packages", "memory", "jars of kafka", "kafka", "postgres", "redis"} <= found.keys()
    assert all(found[name].ok for name in ("kafka", "postgres", "redis", "schema_registry", "jars of delta"))


def as_ordinary_user(command: list[str], folder: Path) -> tuple[list[str], dict[str, int]]:
    """The command run by somebody who isn't root, on whatever this machine allows."""
    if os.geteuid() != 0:
        return command, {}
    reachable = subprocess.run(
        ["/bin/sh", "-c", 'test -x "$1"', "sh", sys.executable], user=65534, group=65534, extra_groups=[], check=False
    )
    if reachable.returncode == 0:
        shutil.chown(folder, 65534, 65534)
        return command, {"user": 65534, "group": 65534}
    return ["unshare", "--user", "--map-user=1000", "--map-group=1000", *command], {}


def test_an_ordinary_user_can_run_it(home: Path) -> None:
    cache = Path(tempfile.mkdtemp(prefix="fasttrack-cache-"))
    try:
        jars.delta_jars(), java_home()
        shutil.copytree(jars.folder(), cache / "jars", dirs_exist_ok=True)
        subprocess.run(["chmod", "-R", "a+rwX", str(cache)], check=True)
        script = (
            "import os, sys; from pathlib import Path; from fasttrack.local.platform import Platform\n"
            "platform = Platform(Path(sys.argv[1])); platform.start(['postgres', 'redis'])\n"
            "print(os.geteuid() != 0, *sorted(f'{part.name}={part.state}' for part in platform.status()))\n"
            "platform.stop()\n"
        )
        command, who = as_ordinary_user([sys.executable, "-c", script, str(home)], home)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "FASTTRACK_CACHE": str(cache), "HOME": str(home)}
        done = subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=False, **who
        )
        assert done.stdout == "True postgres=running redis=running\n", done.stderr
    finally:
        shutil.rmtree(cache)
