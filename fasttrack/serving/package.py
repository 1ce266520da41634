"""A verified model package, as servers use it; imports neither torch nor the KServe SDK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from fasttrack.errors import ConfigurationError, IntegrityError
from fasttrack.models import Encoder
from fasttrack.models.novelty import Novelty
from fasttrack.registry import package
from fasttrack.serving.signature import Signature


@dataclass(frozen=True)
class ServedPackage:
    """The content of a package whose signature and digests have been verified.

    Attributes:
        files: name to content.
        digest: ``sha256:<hex>``.
        version: the registry's version, or the digest's first 12 hex digits when none was given.
        signature: what the model takes and gives.
        encoder: raw features to tensors.
        novelty: what unusual rows are told by; None in a package of before.
    """

    files: Mapping[str, bytes]
    digest: str
    version: str
    signature: Signature
    encoder: Encoder
    novelty: Novelty | None

    @classmethod
    def open(
        cls, path: str | Path, public_key: str | Path, version: str = "", digest: str | None = None
    ) -> ServedPackage:
        """Verify the package in a folder, then read it.

        Args:
            path: the package's folder.
            public_key: file with the Ed25519 public key of who may sign packages.
            version: the registry's version, shown in responses.
            digest: the only digest that is acceptable; default: any that is validly signed.

        Raises:
            IntegrityError: if anything was changed, or the package is not of this version of FastTrack.
            ConfigurationError: if the key can't be read.
            NotFoundError, StorageError: if the package can't be read.
        """
        try:
            key = Path(public_key).read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"the public key can't be read: {error.strerror}.",
                where=str(public_key),
                fix="Set FASTTRACK_VERIFY_KEY to the PEM file of the key that packages are signed with.",
            ) from error
        found = package.load(path, key, digest)
        with _readable(f"{path}/config.json"):
            encoder = Encoder.from_json(orjson.loads(found.files["config.json"])["encoder"])
        with _readable(f"{path}/novelty.json"):
            kept = found.files.get("novelty.json")
            novelty = None if kept is None else Novelty.from_json(orjson.loads(kept))
        shown = version or found.digest.removeprefix("sha256:")[:12]
        signature = Signature.parse(found.files["signature.json"])
        return cls(found.files, found.digest, shown, signature, encoder, novelty)

    def parameters(self) -> dict[str, str]:
        """What every response says about its origin."""
        return {"model_version": self.version, "digest": self.digest}


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """A file that was signed and yet isn't what this version writes."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"it can't be read ({error!r}).",
            where=where,
            fix="Publish the package again with this version of FastTrack.",
        ) from error
