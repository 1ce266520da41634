"""The ingester's counters for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from fasttrack.errors import ConfigurationError


class Metrics:
    """Counters by source, served over HTTP for the duration of a ``with`` block.

    Args:
        usecase: the use case's name.
        host, port: where; port 0 takes a free one, see `port`.

    Raises:
        ConfigurationError: the port can't be listened on.
    """

    def __init__(self, usecase: str, host: str, port: int) -> None:
        registry = CollectorRegistry()
        labels = ["usecase", "source"]
        self._usecase = usecase
        self._records = Counter(
            "fasttrack_source_records", "Records, by what became of them", [*labels, "outcome"], registry=registry
        )
        self._errors = Counter("fasttrack_source_errors", "Failures that were tried again", labels, registry=registry)
        self._lag = Gauge("fasttrack_source_lag", "Records (of files: files) that wait", labels, registry=registry)
        self._success = Gauge(
            "fasttrack_source_last_success_timestamp", "When the source was last read to its end, or a batch of it "
            "was confirmed (Unix time)", labels, registry=registry,
        )  # fmt: skip
        try:
            self._server, self._thread = start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigurationError(
                f"metrics can't be served: {error.strerror or error}.", where=f"{host}:{port}",
                fix="Choose another --metrics-port.",
            ) from error  # fmt: skip
        #: The port that is listened on.
        self.port = int(self._server.server_port)

    def count(self, source: str, outcome: str, records: int) -> None:
        """Records that were `sent`, `skipped` (already there) or, of those sent, `unparsable`."""
        self._records.labels(self._usecase, source, outcome).inc(records)

    def failed(self, source: str) -> None:
        """One failure that is tried again."""
        self._errors.labels(self._usecase, source).inc()

    def lag(self, source: str, waiting: float) -> None:
        """How much waits."""
        self._lag.labels(self._usecase, source).set(waiting)

    def succeeded(self, source: str) -> None:
        """The source was read to its end, or a batch of it was confirmed, just now."""
        self._success.labels(self._usecase, source).set_to_current_time()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
