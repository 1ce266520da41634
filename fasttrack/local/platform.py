"""The local platform of one home: all parts, started in parallel, supervised, addressed by `Settings`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType

import fasttrack
from fasttrack.errors import ConflictError, NotFoundError, UnavailableError
from fasttrack.local import issuer, kafka, postgres, redis, schema_registry, servers
from fasttrack.local.channel import Channel
from fasttrack.local.home import Home
from fasttrack.local.jars import delta_jars
from fasttrack.local.jvm import cache_home, java_home
from fasttrack.local.parallel import together
from fasttrack.local.part import HOST, Part, make_folder
from fasttrack.local.ports import Ports, free
from fasttrack.local.process import Processes
from fasttrack.local.publications import Publications
from fasttrack.local.sealing import Sealer
from fasttrack.local.status import PartStatus, part_status
from fasttrack.progress import Bar, track
from fasttrack.registry import keys
from fasttrack.registry.store import Registry
from fasttrack.settings import Settings

PARTS = ("kafka", "postgres", "redis", "schema_registry", "gateway")
_PORTS = {name: (name,) for name in PARTS} | {"kafka": ("kafka", "kafka_controller")}
_STORES = ("kafka", "postgres", "redis")
_PORT_ATTEMPTS = 3


class Platform:
    """The platform of a home; a context manager that starts and stops it.

    Args:
        home: folder of its state and data.
        ports: ports that must be taken as they are, by name of the part.
    """

    def __init__(self, home: Path, ports: Mapping[str, int] | None = None) -> None:
        self.home = Home(home)
        self._state = self.home.state()
        self._ports = Ports(self._state.ports, ports)
        self._processes: Processes | None = None
        self._channel: Channel | None = None
        self._lock: int | None = None
        self._stopping = threading.RLock()
        self._publications: Publications | None = None
        self._sealer: Sealer | None = None
        self._over = threading.Event()

    def __enter__(self) -> Platform:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ---- addresses

    def settings(self) -> Settings:
        """Where the parts of this home are; also of a platform that another process runs."""
        ports = self._state.ports
        signing, verify = keys.ensure(self.home / "keys")
        audit, audit_verify = keys.ensure(self.home / "keys" / "audit")
        jwks, issuer_url = issuer.ensure(self.home.root)

        def at(name: str, form: str) -> str:
            return form.format(host=HOST, port=ports[name]) if name in ports else ""

        return Settings(
            kafka=at("kafka", "{host}:{port}"),
            schema_registry=at("schema_registry", "http://{host}:{port}"),
            postgres=postgres.url(self.home / "postgres", ports["postgres"]) if "postgres" in ports else "",
            redis=at("redis", "redis://{host}:{port}/0"),
            lake=str(self.home / "lake"),
            packages=str(self.home / "packages"),
            runs=str(self.home / "runs"),
            signing_key=str(signing),
            verify_key=str(verify),
            audit_key=str(audit),
            audit_verify_key=str(audit_verify),
            jwks=str(jwks),
            issuer=issuer_url,
            gateway=at("gateway", "http://{host}:{port}"),
        )

    def environment(self) -> dict[str, str]:
        """The variables that steps, Spark and servers need: the settings, Java, Spark's jars, the home."""
        return {
            **self.settings().to_environment(),
            "FASTTRACK_HOME": str(self.home.root),
            "JAVA_HOME": str(java_home()),
            "FASTTRACK_SPARK_JARS": ",".join(str(path) for path in delta_jars()),
            "FASTTRACK_SPARK_CLASSES": str(cache_home() / "classes"),
        }

    def _part_environment(self) -> dict[str, str]:
        source = str(Path(fasttrack.__file__).parents[1])
        path = os.pathsep.join(
            dict.fromkeys([source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
        )
        return {**os.environ, **self.environment(), "PYTHONPATH": path}

    # ---- start and stop

    def start(self, parts: Iterable[str] | None = None) -> None:
        """Start these parts (default: all, and the servers of what was published); returns when they are ready.

        Raises:
            ConflictError: this home's platform is up already, or a fixed port is taken.
            UnavailableError: a part does not start; the error shows the end of its log.
            IntegrityError: a jar was changed.
            StorageError: the disk refuses.
        """
        wanted = list(PARTS if parts is None else parts)
        if unknown := [name for name in wanted if name not in PARTS]:
            raise NotFoundError(f"there is no part {unknown[0]!r}.", fix=f"The parts are: {', '.join(PARTS)}.")
        self.home.make()
        self._lock = self.home.lock()
        try:
            for name in ("lake", "packages", "runs", "logs"):
                make_folder(self.home / name)
            self._processes = Processes(self.home / "logs", self._part_environment, self._lock)
            self._publications = Publications(self.home, self._state, self._ports, self._processes)
            self._channel = Channel(self)
            self._processes.on_change = self._tell_where
            self._tell_where()
            published = list(self._state.publications) if parts is None else []
            with track("Starting the platform", total=len(wanted) + len(published), unit="parts") as bar:
                self._start_stores(wanted, bar)
                if "postgres" in wanted:
                    self._migrate()
                    settings = self.settings()
                    self._sealer = Sealer(settings.require("postgres"), Path(settings.audit_key))
                for name in ("schema_registry", "gateway"):
                    if name in wanted:
                        self._launch(name)
                        bar.advance()
                for name in published:
                    self._publications.resume(name)
                    bar.advance()
        except BaseException:
            self.stop()
            raise

    def _start_stores(self, wanted: list[str], bar: Bar) -> None:
        def launch(name: str) -> None:
            self._launch(name)
            bar.advance()

        together({name: partial(launch, name) for name in _STORES if name in wanted})

    def _migrate(self) -> None:
        """Make the registry's tables: the gateway isn't ready without them."""
        registry = Registry(self.settings().require("postgres"))
        try:
            registry.migrate()
        finally:
            registry.close()

    def _launch(self, name: str) -> None:
        """Choose ports, prepare and start one part; once more if somebody takes a port in between."""
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            ports = [self._ports.choose(port) for port in _PORTS[name]]
            self.home.remember(self._state)
            part = self._prepare(name, ports)
            try:
                if self._processes is None:
                    raise self._down()
                self._processes.start(part)
            except UnavailableError as error:
                taken = [port for port in _PORTS[name] if not free(self._state.ports[port])]
                if not taken or attempt == _PORT_ATTEMPTS:
                    raise
                if fixed := [port for port in taken if self._ports.is_fixed(port)]:
                    raise ConflictError(
                        f"the port of {fixed[0]} was taken while it started.", fix="Choose another."
                    ) from error
            else:
                return

    def _prepare(self, name: str, ports: list[int]) -> Part:
        folder = self.home / name
        if name == "kafka":
            return kafka.prepare(folder, *ports)
        if name == "postgres":
            return postgres.prepare(folder, *ports)
        if name == "redis":
            return redis.prepare(folder, *ports)
        if name == "schema_registry":
            return schema_registry.prepare(ports[0], self.settings().require("kafka"))
        return servers.gateway(ports[0])

    def stop(self) -> None:
        """Stop all parts: servers first, stores last; does nothing if nothing is up."""
        with self._stopping:
            if self._publications is not None:
                self._publications.close()
                self._publications = None
            if self._processes is not None:
                names = [run.part.name for run in self._processes.runs()]
                self._processes.stop([name for name in names if name not in PARTS] + ["gateway"])
                if self._sealer is not None:
                    # The gateway has written its last rows, and the database still runs.
                    self._sealer.stop()
                    self._sealer = None
                self._processes.stop(["schema_registry"])
                self._processes.stop(list(_STORES))
                self._processes.close()
                self._processes = None
            if self._channel is not None:
                self._channel.close()
                self._channel = None
                self.home.write_control(None)
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None
            self._over.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the platform was stopped (`fasttrack down`, say) or its keeper died; false after `timeout`."""
        if self._processes is not None and not self._processes.alive:
            self.stop()
        return self._over.wait(timeout)

    def _down(self) -> UnavailableError:
        return UnavailableError(
            "the platform is not up.", where=str(self.home.root), fix="Start it with `fasttrack up`."
        )

    def _tell_where(self) -> None:
        if self._channel is not None:
            runs = self._processes.runs() if self._processes else []
            self.home.write_control({**self._channel.address(), "parts": {run.part.name: run.pid for run in runs}})

    # ---- models

    def publish(
        self,
        name: str,
        usecase_path: Path | str,
        package_path: Path | str,
        *,
        version: int | None = None,
        digest: str = "",
    ) -> dict[str, str]:
        """Serve a model package; a former one of the same name goes on for a moment, then it is stopped.

        Args:
            name: of the model in URLs: the use case's.
            usecase_path: the use-case file.
            package_path: the package's folder.
            version: the registry's version, which responses show.
            digest: the servers refuse a package of any other, now and when the platform is started again.

        Returns:
            ``predictor_url``, ``transformer_url``, ``explainer_url``, and ``predictor_grpc`` etc. (host:port).

        Raises:
            NotFoundError: a path doesn't exist.
            UseCaseError: the use-case file is malformed.
            UnavailableError: a server does not start; the former ones go on.
        """
        if self._publications is None:
            raise self._down()
        wanted = servers.Published(Path(usecase_path).absolute(), Path(package_path).absolute(), version, digest)
        return self._publications.publish(name, wanted)

    def beside(
        self, name: str, usecase_path: Path | str, package_path: Path | str, *, version: int, digest: str
    ) -> dict[str, str]:
        """Serve another version beside the published one; the arguments, results and errors are as for `publish`.

        Raises:
            NotFoundError: nothing is published under this name.
        """
        if self._publications is None:
            raise self._down()
        wanted = servers.Published(Path(usecase_path).absolute(), Path(package_path).absolute(), version, digest)
        return self._publications.beside(name, wanted)

    def settle(self, name: str, version: int | None) -> None:
        """End the time of two versions: `version` stays if it is the one beside, else the published one.

        The other one's servers are stopped a moment later. Nothing happens if there is no other.
        """
        if self._publications is None:
            raise self._down()
        self._publications.settle(name, version)

    # ---- look

    def status(self) -> list[PartStatus]:
        """Each part that this process supervises."""
        return [part_status(run) for run in self._processes.runs()] if self._processes else []
