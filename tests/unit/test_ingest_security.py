"""What a Kafka client's security is made of, and what is refused before any broker is asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from confluent_kafka import Producer
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.errors import ConfigurationError
from fasttrack.ingest.access import Access
from fasttrack.ingest.security import PROTOCOLS, SUFFIXES, security
from fasttrack.settings import Settings
from tests.integration.certificates import Authority


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Good files by their variable's suffix, and bad ones by what is wrong with them."""
    authority = Authority(tmp_path_factory.mktemp("files") / "authority")
    mine, other, old = authority.issue("drain"), authority.issue("other"), authority.issue("drain", expired=True)
    password = authority.ca.with_name("password")
    password.write_text("päss word\n")
    binary = authority.ca.with_name("binary")
    binary.write_bytes(b"\xff\xfe\x00")
    found = {"CA": authority.ca, "CERTIFICATE": mine.certificate, "KEY": mine.key, "PASSWORD": password}
    found |= {"other key": other.key, "expired": old.certificate, "expired key": old.key, "binary": binary}
    return {name: str(path) for name, path in found.items()} | {"USER": "drain"}


def given_by(files: Mapping[str, str], *suffixes: str, protocol: str = "SSL", **changed: str) -> dict[str, str]:
    """Variables beside ``X``."""
    return {f"X_{suffix}": files[suffix] for suffix in suffixes} | {"X_PROTOCOL": protocol} | changed


PAIR = ("CA", "CERTIFICATE", "KEY")


def test_a_certificate_makes_a_client_of_tls(files: Mapping[str, str]) -> None:
    made = security("X", given_by(files, *PAIR))
    assert made == {
        "security.protocol": "SSL",
        "ssl.ca.location": files["CA"],
        "ssl.certificate.location": files["CERTIFICATE"],
        "ssl.key.location": files["KEY"],
    }
    # librdkafka takes it, too.
    Producer({"bootstrap.servers": "127.0.0.1:9", "log_level": 0, **made})


def test_a_password_is_read_without_its_line_end(files: Mapping[str, str]) -> None:
    made = security("X", given_by(files, "CA", "USER", "PASSWORD", protocol="SASL_SSL"))
    assert (made["sasl.username"], made["sasl.password"]) == ("drain", "päss word")
    assert made["sasl.mechanism"] == "SCRAM-SHA-512"
    Producer({"bootstrap.servers": "127.0.0.1:9", "log_level": 0, **made})


def test_nothing_said_is_plain() -> None:
    assert security("X", {}) == security("X", {"X_PROTOCOL": "PLAINTEXT", "X_CA": "", "Y_CA": "/ca"}) == {}


def test_no_secret_is_shown(files: Mapping[str, str]) -> None:
    settings = Settings(
        kafka="h:1",
        kafka_protocol="SASL_SSL",
        kafka_user="drain",
        kafka_password=files["PASSWORD"],
        kafka_ca=files["CA"],
    )
    access = Access.at(settings)
    assert access.client()["sasl.password"] == "päss word"
    assert "päss word" not in repr(access) + repr(settings)


@pytest.mark.parametrize("suffix", ["CA", "CERTIFICATE", "KEY"])
def test_a_file_that_is_not_there_is_named(files: Mapping[str, str], suffix: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"/nowhere/x\.pem: the file can't be read: No such .* Give X_{suffix} a"
    ):
        security("X", given_by(files, *PAIR, **{f"X_{suffix}": "/nowhere/x.pem"}))


@pytest.mark.parametrize("suffix", ["CA", "CERTIFICATE", "KEY"])
def test_a_file_that_may_not_be_read_is_named(files: Mapping[str, str], suffix: str, tmp_path: Path) -> None:
    # A folder: permissions stop no superuser.
    with pytest.raises(ConfigurationError, match=rf"the file can't be read: {os.strerror(21)}\. Give X_{suffix} a"):
        security("X", given_by(files, *PAIR, **{f"X_{suffix}": str(tmp_path)}))


@pytest.mark.parametrize(
    ("suffix", "file", "words"),
    [
        ("CERTIFICATE", "expired", "the certificate and its key can't be used: key values mismatch"),
        ("KEY", "other key", "the certificate and its key can't be used: key values mismatch"),
        ("KEY", "CA", "Give X_CERTIFICATE and X_KEY PEM files that belong together"),
        ("CERTIFICATE", "PASSWORD", "Give X_CERTIFICATE and X_KEY PEM files that belong together"),
        ("CA", "KEY", "the authorities can't be used: .* Give X_CA a PEM file of certificates"),
        ("CA", "binary", "the authorities can't be used: .* Give X_CA a PEM file of certificates"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(
    files: Mapping[str, str], suffix: str, file: str, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        security("X", given_by(files, *PAIR, **{f"X_{suffix}": files[file]}))


def test_a_password_that_is_no_text_is_refused(files: Mapping[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"binary: the password isn't text.* Give X_PASSWORD a file of UTF-8"):
        security("X", given_by(files, "USER", protocol="SASL_SSL", X_PASSWORD=files["binary"]))


def test_an_expired_certificate_is_told_from_others(files: Mapping[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"drain-expired\.crt: the certificate has expired.* Give X_CERTIF"):
        security("X", given_by(files, "CA", X_CERTIFICATE=files["expired"], X_KEY=files["expired key"]))


@given(protocol=st.sampled_from(PROTOCOLS), chosen=st.sets(st.sampled_from(SUFFIXES[1:])))
def test_what_is_set_is_used_or_refused(files: Mapping[str, str], protocol: str, chosen: set[str]) -> None:
    """Nobody believes to be somebody, and comes as nobody."""
    try:
        made = security("X", given_by(files, *chosen, protocol=protocol))
    except ConfigurationError as error:
        assert error.where and error.where.startswith("X_")
        assert error.fix
        complete = {"PLAINTEXT": [set()], "SSL": [set(), set(PAIR[1:])]}.get(protocol, [])
        assert chosen - {"CA"} not in complete or (protocol == "PLAINTEXT" and "CA" in chosen)
    else:
        values = {files[each] for each in chosen - {"PASSWORD"}} | ({"päss word"} if "PASSWORD" in chosen else set())
        assert values <= set(made.values())


@given(st.text().filter(lambda text: text not in (*PROTOCOLS, "")))
def test_an_unknown_protocol_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no protocol"):
        security("X", {"X_PROTOCOL": text})
