"""Folders and S3 prefixes: what deltalake is told, what is refused, and what an object store's answers mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from fasttrack.errors import ConfigurationError, FastTrackError, StorageError, UnavailableError
from fasttrack.features.online.materialization import materialize
from fasttrack.lake import storage
from fasttrack.lake.failures import storage_error
from fasttrack.lake.storage import patiently, riding_out, storage_options
from fasttrack.lake.tables import features_path, raw_path
from fasttrack.settings import Settings
from tests.unit.ingest_usecase import usecase

TABLE = "s3://bucket/lake/shop/raw/placed"


def test_a_folder_needs_no_options(tmp_path: Path) -> None:
    assert storage_options(str(tmp_path)) is None


@pytest.mark.parametrize("unsafe", ["AWS_S3_ALLOW_UNSAFE_RENAME", "AWS_CONDITIONAL_PUT"])
def test_no_variable_switches_the_conditional_put_off(unsafe: str) -> None:
    found = storage_options(TABLE, {unsafe: "true"})
    assert found is not None
    assert (found["aws_conditional_put"], found["aws_s3_allow_unsafe_rename"]) == ("etag", "false")


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "localhost:9000", "[::1]:9000"])
def test_this_machine_may_be_spoken_to_in_clear(host: str) -> None:
    found = storage_options(TABLE, {"AWS_ENDPOINT_URL": f"http://{host}"})
    assert found is not None
    assert found["allow_http"] == "true"


def test_a_network_is_only_trusted_when_told() -> None:
    environment = {"AWS_ENDPOINT_URL": "http://store.example.org"}
    with pytest.raises(ConfigurationError, match="in clear"):
        storage_options(TABLE, environment)
    found = storage_options(TABLE, environment | {"AWS_ALLOW_HTTP": "true"})
    assert found is not None
    assert found["allow_http"] == "true"
    assert "allow_http" not in (storage_options(TABLE, {"AWS_ENDPOINT_URL": "https://store.example.org"}) or {})


def test_a_lake_in_s3_keeps_its_prefix() -> None:
    shop = usecase("shop")
    assert raw_path(Settings(lake="s3://bucket/a/b/"), shop, "placed") == "s3://bucket/a/b/shop/raw/placed"
    assert raw_path(Settings(lake="s3://bucket"), shop, "placed") == "s3://bucket/shop/raw/placed"


@pytest.mark.parametrize("lake", ["s3://", "s3:///prefix", "gs://bucket", "abfss://a@b/c", "s3://a/s3://b"])
def test_another_kind_of_lake_is_refused(lake: str) -> None:
    with pytest.raises(ConfigurationError, match="or in S3"):
        raw_path(Settings(lake=lake), usecase("shop"), "placed")


def test_features_and_the_online_store_ask_for_a_folder() -> None:
    settings = Settings(lake="s3://bucket/lake", redis="redis://127.0.0.1:9")
    with pytest.raises(ConfigurationError, match="features and training need a lake in a folder"):
        features_path(settings, usecase("shop"), "f")
    with pytest.raises(ConfigurationError, match="filling the online store needs a lake in a folder"):
        materialize(usecase("shop"), settings)


@pytest.mark.parametrize(
    ("said", "kind", "what"),
    [
        ("404 Not Found <Error><Code>NoSuchBucket</Code>", StorageError, "no such bucket"),
        ("403 Forbidden <Error><Code>AccessDenied</Code>", StorageError, "denies access"),
        ("403 Forbidden <Error><Code>InvalidAccessKeyId</Code>", StorageError, "does not accept the credentials"),
        ("403 Forbidden <Error><Code>SignatureDoesNotMatch</Code>", StorageError, "does not accept the credentials"),
        ("PUT http://169.254.169.254/latest/api/token - 403 Forbidden", ConfigurationError, "no credentials"),
        ("301 Moved Permanently <Code>PermanentRedirect</Code>", ConfigurationError, "another region"),
        ("client error (Connect) tcp connect error Connection refused", UnavailableError, "does not answer"),
        ("HTTP error error sending request operation timed out", UnavailableError, "does not answer"),
        (": Error getting list response body: HTTP error: request or response body error", UnavailableError, "answer"),
        ("POST /key?uploadId=1 404 Not Found <Code>NoSuchUpload</Code>", UnavailableError, "does not answer"),
        ("HTTP error builder error URL scheme is not allowed", StorageError, "scheme is not allowed"),
        ("503 Service Unavailable <Code>SlowDown</Code>", UnavailableError, "does not answer"),
        ("error reading a body from connection Connection reset by peer", UnavailableError, "does not answer"),
        ("client error (Connect) dns error failed to lookup address", UnavailableError, "name is not known"),
    ],
)
def test_what_an_object_store_says_becomes_one_line(said: str, kind: type[FastTrackError], what: str) -> None:
    error = storage_error(OSError(f"Generic S3 error\n \x1b[31m↳\x1b[0m {said}"), TABLE)
    assert type(error) is kind
    assert what in error.what
    assert error.where == TABLE
    assert error.fix
    assert len(str(error).splitlines()) == 1


def test_an_answer_that_nobody_foresaw_is_shown_without_colours() -> None:
    error = storage_error(OSError("Generic S3 error\n \x1b[31m↳\x1b[0m 418 I'm a teapot"), TABLE)
    assert type(error) is StorageError
    assert "Generic S3 error 418 I'm a teapot" in str(error)


def test_only_an_object_store_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def sleep(self, seconds: float) -> None:
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(storage, "time", clock)
    asked: list[float] = []

    def refuse(said: str) -> None:
        asked.append(clock.now)
        raise OSError(f"Generic S3 error {said}")

    for path, said in ((TABLE, "NoSuchBucket"), ("/lake/table", "(Connect)")):
        with pytest.raises(OSError, match="S3"):
            patiently(path, lambda said=said: refuse(said))  # type: ignore[misc]
    assert len(asked) == 2
    with pytest.raises(OSError, match="Connect"):
        patiently(TABLE, lambda: refuse("(Connect)"))
    short, asked[:], clock.now = clock.now, [], 0.0
    with riding_out(), pytest.raises(OSError, match="Connect"):
        patiently(TABLE, lambda: refuse("(Connect)"))
    assert clock.now > 60 > short > 0
    assert len(asked) > 30
