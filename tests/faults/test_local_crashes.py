"""However the platform's processes die, nothing is orphaned, nothing is lost, and it can be started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import redis

from fasttrack.errors import UnavailableError
from fasttrack.local import control
from fasttrack.local.home import Home
from fasttrack.local.part import Part
from fasttrack.local.platform import Platform
from fasttrack.local.process import Processes

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0


def eventually(what: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def family(pid: int) -> list[psutil.Process]:
    """A supervisor, its keeper, the parts and what those have started."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def command(process: psutil.Process) -> str:
    """Nothing for one that has ended since it was listed: Postgres forks and ends workers all the time."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def gone(processes: list[psutil.Process]) -> bool:
    return not [each for each in processes if lives(each)]


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_part_outlives_its_supervisor(home: Path, number: signal.Signals) -> None:
    control.up(home, ["kafka", "postgres", "redis"])
    owner = Home(home).owner()
    assert owner is not None
    everything = family(owner)
    names = " ".join(command(process) for process in everything)
    assert "kafka.Kafka" in names
    assert "redis-server" in names
    assert "postgres" in names
    os.kill(owner, number)
    assert eventually(lambda: gone(everything)), [each for each in everything if lives(each)]
    assert eventually(lambda: not Home(home).locked())
    assert {part.state for part in control.status(home)} == {"stopped"}


def test_no_part_outlives_its_keeper(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    platform = Platform(home)
    platform.start(["postgres", "redis"])
    try:
        assert platform._processes is not None
        keeper = platform._processes._keeper.pid
        parts = family(keeper)[1:]
        assert len(parts) > 2
        os.kill(keeper, signal.SIGKILL)
        assert eventually(lambda: gone(parts))
        assert eventually(lambda: {part.state for part in platform.status()} == {"failed"})
        assert eventually(lambda: platform.wait(0.05))
    finally:
        platform.stop()
    assert "keeper process was killed" in capfd.readouterr().err


def test_a_home_can_be_started_right_after_a_crash(home: Path) -> None:
    control.up(home, ["postgres", "redis"])
    redis.Redis.from_url(Platform(home).settings().redis).set("kept", "yes")
    time.sleep(1.5)  # the append-only file is written once a second
    owner = Home(home).owner()
    assert owner is not None
    os.kill(owner, signal.SIGKILL)
    control.up(home, ["postgres", "redis"])
    assert redis.Redis.from_url(Platform(home).settings().redis).get("kept") == b"yes"
    assert {part.state for part in control.status(home)} == {"running"}


def test_ctrl_c_in_the_foreground_stops_everything(home: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from fasttrack.local.platform import Platform\n"
        "platform = Platform(Path(sys.argv[1]))\n"
        "try:\n    platform.start(['redis', 'postgres']); print('up', flush=True); time.sleep(600)\n"
        "finally:\n    platform.stop(); print('down', flush=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # A session of its own, signalled as a whole: that is what a terminal does.
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    everything = family(child.pid)
    os.killpg(child.pid, signal.SIGINT)
    assert child.stdout.readline() == "down\n"
    child.wait(PATIENCE_SECONDS)
    assert gone(everything)


def test_a_crashed_part_is_started_again(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    platform = Platform(home)
    platform.start(["redis"])
    try:
        before = platform.status()[0]
        assert before.pid is not None
        os.kill(before.pid, signal.SIGKILL)
        assert eventually(lambda: platform.status()[0].restarts == 1 and platform.status()[0].state == "running")
        assert platform.status()[0].pid != before.pid
        assert redis.Redis.from_url(platform.settings().redis).ping()
    finally:
        platform.stop()
    assert "redis ended unexpectedly (exit code -9)" in capfd.readouterr().err


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path / "logs", lambda: dict(os.environ))
    yield made
    made.close()


def script(code: str, ready: Callable[[], bool], **options: float) -> Part:
    return Part("part", (sys.executable, "-c", code), ready, **options)  # type: ignore[arg-type]


def test_a_part_that_ends_at_once_shows_its_log(processes: Processes) -> None:
    with pytest.raises(UnavailableError, match=r"(?s)part ended at once \(exit code 3\).*no such table"):
        processes.start(script("import sys; print('no such table'); sys.exit(3)", lambda: False))
    assert processes.get("part").state == "failed"


def test_a_part_that_never_gets_ready_is_stopped(processes: Processes) -> None:
    with pytest.raises(UnavailableError, match="not ready within 1 s"):
        processes.start(script("import time; print('waiting', flush=True); time.sleep(600)", lambda: False, timeout=1))
    assert not psutil.pid_exists(processes.get("part").pid)


def test_a_part_that_ignores_the_request_to_end_is_killed(processes: Processes, tmp_path: Path) -> None:
    flag = tmp_path / "ready"
    code = f"import signal, time; signal.signal(15, signal.SIG_IGN); open({str(flag)!r}, 'w'); time.sleep(600)"
    run = processes.start(script(code, flag.exists, grace=0.5))
    processes.stop(["part"])
    assert (run.state, run.code) == ("stopped", -signal.SIGKILL)


def test_children_of_a_part_go_with_it(processes: Processes, tmp_path: Path) -> None:
    flag = tmp_path / "ready"
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(flag)!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    processes.start(script(code, lambda: flag.exists() and bool(flag.read_text())))
    child = psutil.Process(int(flag.read_text()))
    processes.stop(["part"])
    assert eventually(lambda: gone([child]))


def test_a_part_that_keeps_crashing_is_given_up(processes: Processes, tmp_path: Path) -> None:
    flag = tmp_path / "ready"
    code = f"import time; open({str(flag)!r}, 'w'); time.sleep(0.1); raise SystemExit('broken')"
    run = processes.start(script(code, flag.exists))
    assert eventually(lambda: run.state == "failed")
    assert run.restarts == 6
