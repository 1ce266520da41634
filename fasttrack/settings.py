"""Where the parts are: settings read from ``FASTTRACK_*`` environment variables.

The library never asks whether it runs on a laptop or a cluster: `fasttrack up` writes these
variables for local processes, a ConfigMap and Secrets set them for pods.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from fasttrack.errors import ConfigurationError

PREFIX = "FASTTRACK_"


@dataclass(frozen=True)
class Settings:
    """Addresses and keys of the parts.

    Attributes:
        kafka: bootstrap servers, ``host:port[,host:port]``.
        kafka_protocol: how to come in: PLAINTEXT (when empty), SSL or SASL_SSL; what follows are paths of files
            (`fasttrack.ingest.security`).
        kafka_ca: certificates (PEM) of whom to trust as a broker.
        kafka_certificate: this client's certificate (PEM).
        kafka_key: its private key (PEM).
        kafka_user: name for SASL_SSL; no path.
        kafka_password: its password.
        schema_registry: URL of a Confluent-compatible schema registry.
        postgres: libpq connection URL of the registry and audit database.
        redis: URL of the cache and online store.
        lake: folder or ``s3://bucket/prefix`` under which the Delta tables lie; S3's keys are AWS's variables.
        packages: folder or URI under which model packages lie.
        runs: folder or URI under which run reports lie.
        signing_key: path of the Ed25519 private key (PEM) that signs model packages.
        verify_key: path of the matching public key (PEM).
        audit_key: path of the Ed25519 private key (PEM) that signs checkpoints of the audit log.
        audit_verify_key: path of the matching public key (PEM).
        jwks: URL or path of the token issuer's JSON Web Key Set.
        issuer: the expected ``iss`` of tokens.
        audience: the expected ``aud`` of tokens.
        gateway: base URL of the API gateway.
        tls_ca: certificates (PEM) of whom to trust as a model server or Redis, by TLS; empty: whom the system trusts.
        tls_certificate: this client's certificate (PEM) for them.
        tls_key: its private key (PEM), if it doesn't stand in the certificate's file.
    """

    kafka: str = ""
    kafka_protocol: str = ""
    kafka_ca: str = ""
    kafka_certificate: str = ""
    kafka_key: str = ""
    kafka_user: str = ""
    kafka_password: str = ""
    schema_registry: str = ""
    postgres: str = ""
    redis: str = ""
    lake: str = ""
    packages: str = ""
    runs: str = ""
    signing_key: str = ""
    verify_key: str = ""
    audit_key: str = ""
    audit_verify_key: str = ""
    jwks: str = ""
    issuer: str = ""
    audience: str = "fasttrack"
    gateway: str = ""
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read ``FASTTRACK_KAFKA``, ``FASTTRACK_LAKE`` and so on; absent ones stay empty."""
        env = os.environ if environ is None else environ
        found = {f.name: env[PREFIX + f.name.upper()] for f in fields(cls) if PREFIX + f.name.upper() in env}
        return cls(**found)

    def to_environment(self) -> dict[str, str]:
        """The variables that make `from_environment` return this object again."""
        return {PREFIX + f.name.upper(): getattr(self, f.name) for f in fields(self) if getattr(self, f.name)}

    def require(self, name: str) -> str:
        """The setting called `name`.

        Raises:
            ConfigurationError: if it is not set.
        """
        value: str = getattr(self, name)
        if not value:
            raise ConfigurationError(
                f"{PREFIX}{name.upper()} is not set.",
                fix="Start the local platform with `fasttrack up`, or set the variable.",
            )
        return value


def data_home() -> Path:
    """FastTrack's data folder: ``$FASTTRACK_HOME``, else ``$XDG_DATA_HOME/fasttrack``."""
    if home := os.environ.get("FASTTRACK_HOME"):
        return Path(home).expanduser().absolute()
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser().absolute() / "fasttrack"
