"""Model packages: named by their content, signed, and never parsed before they are verified.

A package is the eight files of `LIMITS`, and perhaps those of `NOVELTY` and `EXPLAINER`, with a ``MANIFEST`` (canonical
JSON: every file's name, size and SHA-256) and a ``MANIFEST.sig`` (64 raw bytes: an Ed25519 signature over `DOMAIN` and
the manifest). Its digest is the manifest's SHA-256, so the same files and key always give the same package.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
from cryptography.exceptions import InvalidSignature

from fasttrack.errors import IntegrityError
from fasttrack.registry import folder, keys

FORMAT: Final = "fasttrack.model-package/1"
#: Stands before the manifest in the signed message: a signature made for anything else can't be passed off as ours.
DOMAIN: Final = b"fasttrack.model-package.manifest.v1\x00"
MANIFEST: Final = "MANIFEST"
SIGNATURE: Final = "MANIFEST.sig"
_MIB: Final = 2**20
#: The files of every package and the most bytes that each may have.
LIMITS: Final[Mapping[str, int]] = {
    "model.safetensors": 4096 * _MIB,
    "config.json": 16 * _MIB,
    "signature.json": 16 * _MIB,
    "features.json": 16 * _MIB,
    "background.parquet": 256 * _MIB,
    "conformal.json": 64 * _MIB,
    "metrics.json": 64 * _MIB,
    "lineage.json": 16 * _MIB,
}
#: Those of an amortized explainer: a package has both or neither.
EXPLAINER: Final[Mapping[str, int]] = {"explainer.safetensors": 256 * _MIB, "explainer.json": 16 * _MIB}
#: What unusual rows are told by; packages of before have none.
NOVELTY: Final[Mapping[str, int]] = {"novelty.json": 16 * _MIB}
_ALL: Final = {**LIMITS, **EXPLAINER, **NOVELTY}
_MANIFEST_LIMIT: Final = 64 * 1024
_SIGNATURE_SIZE: Final = 64
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_REPLACE: Final = "Don't serve it: copy the package again from where it was built, or train and publish it anew."


@dataclass(frozen=True)
class Package:
    """A built or verified package.

    Attributes:
        files: the content by name, `LIMITS` and perhaps `EXPLAINER` and `NOVELTY`.
        manifest: the bytes of ``MANIFEST``.
        signature: the bytes of ``MANIFEST.sig``.
        digest: ``sha256:<hex>`` of the manifest.
    """

    files: Mapping[str, bytes]
    manifest: bytes
    signature: bytes
    digest: str

    @property
    def content(self) -> dict[str, bytes]:
        """Every file as it lies in the folder, manifest and signature included."""
        return {**self.files, MANIFEST: self.manifest, SIGNATURE: self.signature}


def build(files: Mapping[str, bytes], private_key_pem: bytes) -> Package:
    """Make and sign a package; the same files and key always give the same bytes.

    Raises:
        IntegrityError: a file is missing, unknown or too big.
        ConfigurationError: the key is not an Ed25519 private key.
    """
    _check_names(set(files), "the new package")
    for name, content in files.items():
        if len(content) > _limit(name):
            raise IntegrityError(
                f"has {len(content)} bytes; the limit is {_limit(name)}.", where=name, fix="Make the model smaller."
            )
    rows = [
        {"name": name, "sha256": hashlib.sha256(files[name]).hexdigest(), "size": len(files[name])}
        for name in sorted(files)
    ]
    manifest = orjson.dumps({"files": rows, "format": FORMAT}, option=orjson.OPT_SORT_KEYS)
    signature = keys.load_private(private_key_pem).sign(DOMAIN + manifest)
    return Package(dict(files), manifest, signature, _digest(manifest))


def location(root: str | Path, digest: str) -> Path:
    """The folder of a package under `root`: ``<root>/sha256-<hex>``, as a colon has a meaning in paths and URLs.

    Raises:
        IntegrityError: `digest` is not ``sha256:`` and 64 hex digits.
        ConfigurationError: `root` is the URI of an object store.
    """
    if not is_digest(digest):
        raise IntegrityError(f"{digest!r} is not a package digest.", fix="Give sha256: and 64 hex digits.")
    return folder.local(root) / digest.replace(":", "-")


def is_digest(text: str) -> bool:
    """Whether `text` has the form of a package digest."""
    return _DIGEST.fullmatch(text) is not None


def write(package: Package, root: str | Path) -> Path:
    """Write a package under `root` and return its folder: whole and on disk, or not at all.

    Writing the same package again, also at the same time, changes nothing.

    Raises:
        StorageError: the disk refused it (full, read-only); nothing is left behind.
        IntegrityError: the folder is there, but with another content.
        ConfigurationError: `root` is the URI of an object store.
    """
    target = location(root, package.digest)
    if not folder.create(target, package.content) and folder.differs(target, package.content):
        raise IntegrityError(
            "a package of this digest is there, but its files were changed.",
            where=str(target),
            fix="Move that folder away and write the package again.",
        )
    return target


def load(path: str | Path, public_key_pem: bytes, digest: str | None = None) -> Package:
    """Read a package into memory and verify it; what is returned are the very bytes that were verified.

    Each file is read once, so changing it between the check and the use changes nothing. The manifest is parsed
    only after its signature has been verified; no other file is parsed at all.

    Args:
        path: the package's folder.
        public_key_pem: the Ed25519 public key of who may sign packages.
        digest: the digest that the package must have, such as the registry's; an older package that is validly
            signed is refused then.

    Raises:
        IntegrityError: signature, digest, size or set of files is wrong, or a file is not a regular file.
        NotFoundError: there is no such folder.
        StorageError: the disk can't be read.
        ConfigurationError: the key is not an Ed25519 public key.
    """
    key = keys.load_public(public_key_pem)
    with folder.opened(path) as source:
        manifest = source.read(MANIFEST, _MANIFEST_LIMIT)
        signature = source.read(SIGNATURE, _SIGNATURE_SIZE)
        try:
            key.verify(signature, DOMAIN + manifest)
        except InvalidSignature as error:
            raise IntegrityError(
                f"the signature is not that of key {keys.fingerprint(key)} over this manifest.",
                where=f"{path}/{SIGNATURE}",
                fix=f"{_REPLACE} If it was signed with another key, set FASTTRACK_VERIFY_KEY to that one.",
            ) from error
        found = _digest(manifest)
        if digest is not None and found != digest:
            raise IntegrityError(f"this is package {found}, not {digest}.", where=str(path), fix=_REPLACE)
        rows = _rows(manifest, path)
        _check_names(source.names() - {MANIFEST, SIGNATURE}, str(path), {name for name, _, _ in rows})
        files = {name: _verified(source, name, size, sha256) for name, size, sha256 in rows}
    return Package(files, manifest, signature, found)


def load_verified(path: str | Path, public_key_pem: bytes, digest: str | None = None) -> dict[str, bytes]:
    """The verified files of a package, name to content; arguments and errors are those of `load`."""
    return dict(load(path, public_key_pem, digest).files)


def digest_at(path: str | Path) -> str:
    """The digest that the package in a folder claims to have; nothing is verified.

    Raises:
        NotFoundError, StorageError, IntegrityError: the manifest can't be read.
    """
    with folder.opened(path) as source:
        return _digest(source.read(MANIFEST, _MANIFEST_LIMIT))


def _digest(manifest: bytes) -> str:
    return "sha256:" + hashlib.sha256(manifest).hexdigest()


def _rows(manifest: bytes, path: str | Path) -> list[tuple[str, int, str]]:
    """Name, size and SHA-256 of each file; the manifest is ours (its signature holds), its version may not be."""
    try:
        document = orjson.loads(manifest)
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r} is unknown; this version reads {FORMAT!r}")
        rows = [(str(row["name"]), int(row["size"]), str(row["sha256"])) for row in document["files"]]
        names = [name for name, _, _ in rows]
        if names != sorted(_belonging(set(names))):
            raise ValueError("it does not list the files of a package")
        return rows
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"the manifest can't be used: {error}.",
            where=f"{path}/{MANIFEST}",
            fix="Use the FastTrack version that wrote the package, or publish it anew.",
        ) from error


def _verified(source: folder.Folder, name: str, size: int, sha256: str) -> bytes:
    content = source.read(name, min(size, _limit(name)))
    if len(content) != size:
        problem = f"has {len(content)} bytes, the manifest says {size}."
    elif hashlib.sha256(content).hexdigest() != sha256:
        problem = "its SHA-256 is not the one in the manifest."
    else:
        return content
    raise IntegrityError(problem, where=source.where(name), fix=_REPLACE)


def _limit(name: str) -> int:
    return _ALL[name]


def _belonging(found: set[str]) -> set[str]:
    """The names of a package that has some of these files: optional files come in whole groups."""
    groups = [group.keys() for group in (EXPLAINER, NOVELTY) if found & group.keys()]
    return set(LIMITS).union(*groups)


def _check_names(found: set[str], where: str, listed: set[str] | None = None) -> None:
    if listed is None:
        listed = _belonging(found)
    missing, unknown = sorted(listed - found), sorted(found - listed)
    if not missing and not unknown:
        return
    parts = [f"{', '.join(missing)} missing"] if missing else []
    # Names from a folder are whatever somebody put there: repr() keeps control characters out of terminals.
    parts += [f"{', '.join(map(repr, unknown))} not allowed"] if unknown else []
    raise IntegrityError(
        f"this package holds exactly {', '.join(sorted(listed))}; {'; '.join(parts)}.", where=where, fix=_REPLACE
    )
