"""The default name of a source's replication slot, apart from what needs Postgres' client: the compiler has it, too."""

from __future__ import annotations

import hashlib
import re

_LONGEST = 63


def slot_name(usecase: str, source: str) -> str:
    """``fasttrack_<use case>_<source>``, with a digest where the names have other characters or are too long."""
    text = f"fasttrack_{usecase}_{source}"
    if re.fullmatch(r"[a-z0-9_]+", text) and len(text) <= _LONGEST:
        return text
    plain = re.sub(r"[^a-z0-9]+", "_", text.lower())
    return f"{plain[: _LONGEST - 7]}_{hashlib.sha256(text.encode()).hexdigest()[:6]}"
