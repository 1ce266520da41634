"""The function of somebody's own that mends dead letters."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fasttrack.errors import ConfigurationError
from fasttrack.ingest.rowcheck import Rejection

Mended = tuple[bytes, bytes | None]


class Fix:
    """``fix(value: bytes, key: bytes | None) -> bytes | (value, key) | None``, out of a file.

    Args:
        text: ``FILE.py:function``.

    Raises:
        ConfigurationError: there is no such file or function, or the file fails.
    """

    def __init__(self, text: str) -> None:
        place, _, name = text.rpartition(":")
        path = Path(place).expanduser()
        fix = "Write FILE.py:function."
        if not place.endswith(".py") or not path.is_file():
            raise ConfigurationError(f"there is no Python file {place!r}.", where=f"--fix {text}", fix=fix)
        spec = importlib.util.spec_from_file_location("_fasttrack_fix", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            # Whatever somebody's code raises is told as theirs.
            what = f"the file fails: {type(error).__name__}: {error}."
            raise ConfigurationError(what, where=f"--fix {text}", fix="Mend it.") from error
        found = getattr(module, name, None)
        if not callable(found):
            raise ConfigurationError(f"{place} has no function {name!r}.", where=f"--fix {text}", fix=fix)
        self._function: Callable[[bytes, bytes | None], Any] = found

    def mend(self, value: bytes | None, key: bytes | None) -> Mended | Rejection:
        """The mended value and key, or why there is none."""
        try:
            found = self._function(value or b"", key)
        except Exception as error:
            # One message that the function can't take leaves the others theirs.
            return Rejection("fix failed", f"{type(error).__name__}: {error}")
        if found is None:
            return Rejection("not fixed", "the fix function gives None")
        if isinstance(found, bytes):
            return found, key
        if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], bytes):
            mended, other = found
            if other is None or isinstance(other, bytes):
                return mended, other
        return Rejection("fix failed", f"gives {type(found).__name__}, not bytes, (value, key) or None")
