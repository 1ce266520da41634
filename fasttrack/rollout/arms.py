"""Which arm a key belongs to: always the same one, at random over keys, and another draw for each rollout."""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal
from uuid import UUID

import orjson

Arm = Literal["champion", "challenger"]
#: What is kept in one arm: an entity, a caller, a tenant; `request`: nothing, each request is drawn anew.
Key = Literal["entity", "subject", "tenant", "request"]
_RANGE: Final = 2.0**64


def place(rollout: UUID, key: bytes) -> float:
    """Where a key falls in [0, 1): the same on every gateway, independent between rollouts (BLAKE2b, keyed)."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8, key=rollout.bytes).digest()) / _RANGE


def arm(position: float, weight: float) -> Arm:
    """The arm of a position; a key that is the challenger's stays so when `weight` grows."""
    return "challenger" if position < weight else "champion"


def key_bytes(key: Key, *, tenant: str, subject: str, question: Any, request_id: str) -> bytes:
    """What `place` gets.

    Args:
        key: what is to stay in one arm.
        tenant, subject: of the caller.
        question: the entity's keys, or the features or event where no entity is named, as JSON values.
        request_id: differs for each request.
    """
    parts: dict[Key, Any] = {
        "entity": question,
        "subject": [tenant, subject],
        "tenant": tenant,
        "request": request_id,
    }
    return orjson.dumps([key, parts[key]], option=orjson.OPT_SORT_KEYS)
