"""A home's state, lock; ports; logs; jars' list: what needs no server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fasttrack.errors import ConfigurationError, ConflictError, IntegrityError, NotFoundError, StorageError
from fasttrack.local import channel, jars, keeper
from fasttrack.local.doctor import examine
from fasttrack.local.home import Home, State
from fasttrack.local.jvm import java_home, trust_options
from fasttrack.local.parallel import together
from fasttrack.local.ports import Ports, free
from fasttrack.local.process import last_lines


def test_state_is_remembered_and_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.state() == State()
    home.remember(State({"kafka": 1}, {"m": {"slot": "a"}}))
    assert home.state() == State({"kafka": 1}, {"m": {"slot": "a"}})
    (tmp_path / "platform.json").write_text('{"ports": ')
    with pytest.raises(IntegrityError, match=r"platform\.json.*Remove it"):
        home.state()


def test_the_lock_is_held_by_whoever_inherits_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert not home.locked()
    descriptor = home.lock()
    heir = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(descriptor,))
    os.close(descriptor)
    assert home.locked()
    heir.communicate(b"\n")
    assert not home.locked()


def test_wipe_leaves_what_is_not_the_platforms(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.make()
    home.remember(State({"kafka": 1}))
    (home / "lake").mkdir()
    (home / "letter.txt").write_text("mine")
    home.wipe()
    assert [path.name for path in home.root.iterdir()] == ["letter.txt"]
    (home / "letter.txt").unlink()
    home.wipe()
    assert not home.root.exists()


def test_a_home_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--home"):
        Home(tmp_path / "file" / "home").make()


def test_ports_are_remembered_until_somebody_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    remembered: dict[str, int] = {}
    first = Ports(remembered).choose("kafka")
    assert Ports(remembered).choose("kafka") == first
    assert Ports(remembered).choose("redis") != first
    with socket.create_server(("127.0.0.1", first)):
        assert not free(first)
        second = Ports(remembered).choose("kafka")
    assert second != first
    assert remembered["kafka"] == second
    assert f"Port {first} of kafka is taken" in capsys.readouterr().err


def test_a_port_on_all_addresses_counts_as_taken() -> None:
    with socket.create_server(("", 0)) as server:
        assert not free(server.getsockname()[1])


def test_fixed_ports_are_taken_as_they_are_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("FASTTRACK_PORT_KAFKA", str(port))
        with pytest.raises(ConflictError, match=f"port {port}, fixed for kafka"):
            Ports({}).choose("kafka")
    assert Ports({"kafka": 5}).choose("kafka") == port
    monkeypatch.setenv("FASTTRACK_PORT_KAFKA", "ninety")
    with pytest.raises(ConfigurationError, match="FASTTRACK_PORT_KAFKA"):
        Ports({})


def test_logs_are_limited(tmp_path: Path) -> None:
    log = keeper.Log(tmp_path / "part.log")
    for number in range(12):
        log.write(b"%d " % number + b"x" * (keeper.LOG_LIMIT // 4) + b"\n")
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["part.log", "part.log.1"]
    assert all(path.stat().st_size <= keeper.LOG_LIMIT for path in tmp_path.iterdir())
    assert last_lines(tmp_path / "part.log", 1)[0].startswith("x") or b"11 " in (tmp_path / "part.log").read_bytes()


def test_together_raises_the_first_error_without_waiting_for_the_rest() -> None:
    def fail() -> None:
        raise NotFoundError("gone")

    import threading

    never = threading.Event()
    with pytest.raises(NotFoundError):
        together({"slow": never.wait, "bad": fail})
    never.set()
    done: list[int] = []
    together({"a": lambda: done.append(1), "b": lambda: done.append(2)})
    assert sorted(done) == [1, 2]


def test_errors_travel_between_processes() -> None:
    error = ConflictError("taken", where="port 1", fix="Choose another.")
    again = channel.rebuild(channel.describe(error))
    assert type(again) is ConflictError
    assert str(again) == str(error)


def test_the_launcher_drops_only_the_missing_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTTRACK_CACHE", str(tmp_path))
    fake = tmp_path / "it's java"
    fake.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setattr("fasttrack.local.jvm.java", lambda: fake)
    launcher = str(java_home() / "bin" / "java")
    command = [launcher, "-Da=b c", "--add-modules=jdk.incubator.vector", "", "Main", "$x"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "<-Da=b c><><Main><$x>"


def test_parts_that_start_at_once_on_a_new_machine_make_one_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasttrack.local.jvm.java", lambda: tmp_path / "java")
    for number in range(20):
        monkeypatch.setenv("FASTTRACK_CACHE", str(tmp_path / str(number)))
        together = threading.Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            homes = list(pool.map(lambda _, here=together: (here.wait(), java_home())[1], range(8)))
        assert len(set(homes)) == 1
        assert [file.name for file in (homes[0] / "bin").iterdir()] == ["java"]


def test_the_launcher_gives_spark_a_class_path_that_an_archive_can_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTTRACK_CACHE", str(tmp_path))
    fake = tmp_path / "java"
    fake.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setattr("fasttrack.local.jvm.java", lambda: fake)
    home = "/a b/pyspark"
    path = f"/delta 1.jar:{home}/conf:{home}/jars/slf4j-api-2.0.17.jar:{home}/jars/*"
    command = [str(java_home() / "bin" / "java"), "-cp", path, "-Dx=a:b", "Main"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"<-cp></delta 1.jar:{home}/jars/*><-Dx=a:b><Main>"


def test_java_trusts_what_python_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert trust_options(tmp_path) == []


def test_the_list_of_jars_names_every_one_exactly() -> None:
    for part, roots in jars.ROOTS.items():
        locked = jars.locked(part)
        assert {(o, m, r) for o, m, r, _ in roots} <= {jar.coordinates for jar in locked}
        assert len({jar.coordinates[:2] for jar in locked}) == len(locked)


def test_a_damaged_list_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "jars.sha256"
    damaged.write_text("# kafka\nabc  org/x.jar\n")
    monkeypatch.setattr(jars, "LIST", damaged)
    with pytest.raises(IntegrityError, match=r"jars\.sha256:2"):
        jars.locked("kafka")


def test_doctor_says_what_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTTRACK_CACHE", str(tmp_path / "cache"))
    jar = jars.folder() / jars.locked("delta")[0].path
    jar.parent.mkdir(parents=True)
    jar.write_bytes(b"not the jar")
    (tmp_path / "platform.json").write_text("damaged")
    found = {finding.name: finding for finding in examine(tmp_path)}
    assert found["jars of delta"].fix == f"rm {jar} (they are fetched anew)."
    assert not found["parts"].ok
    assert "platform.json" in found["parts"].detail
    assert found["jars of kafka"].ok
    assert found["python"].fix is None
