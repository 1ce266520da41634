"""What differs between an object on the cluster and the same object as it would be: field by field, old and new."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Object = Mapping[str, Any]

#: What the API server writes by itself; never a difference of ours.
_SERVER_OWNED = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
_ABSENT = object()
_SHORT = 60


@dataclass(frozen=True)
class Difference:
    """One field that differs.

    Attributes:
        path: ``spec.containers[main].image``; items of lists are told apart by their names where they have some.
        old: the value on the cluster; None if there is none.
        new: the value that it would get; None if it would go.
    """

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.old)} -> {_shown(self.new)}"

    def to_json(self) -> dict[str, Any]:
        """As the command line prints it with ``--json``."""
        return {"path": self.path, "old": self.old, "new": self.new}


def differences(live: Object, wanted: Object) -> list[Difference]:
    """Field by field, in order of the paths; what the API server writes by itself is left out."""
    return sorted(_walk("", cleaned(live), cleaned(wanted)), key=lambda each: each.path)


def unified(live: Object | None, wanted: Object | None, title: str) -> str:
    """The differences as a unified diff of the two as YAML; empty if there are none.

    Args:
        live: as it is on the cluster; None if it isn't there.
        wanted: as it would be; None if it would go.
        title: names the object in the diff's head.
    """
    old, new = ([] if each is None else _lines(cleaned(each)) for each in (live, wanted))
    before = "/dev/null" if live is None else f"cluster/{title}"
    after = "/dev/null" if wanted is None else f"compiled/{title}"
    return "".join(difflib.unified_diff(old, new, before, after))


def cleaned(obj: Object) -> dict[str, Any]:
    """An object without its status and what the API server writes; the values of a Secret as digests."""
    made = {key: value for key, value in obj.items() if key != "status"}
    made["metadata"] = {k: v for k, v in obj.get("metadata", {}).items() if k not in _SERVER_OWNED}
    if obj.get("kind") == "Secret":
        for part in ("data", "stringData"):
            if part in made:
                made[part] = {key: _digest(value) for key, value in (made[part] or {}).items()}
    return made


def _digest(value: Any) -> str:
    return f"hidden, sha256 {hashlib.sha256(str(value).encode()).hexdigest()[:12]}"


def _walk(path: str, old: Any, new: Any) -> Iterator[Difference]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in {**old, **new}:
            place = f"{path}.{key}" if path else str(key)
            yield from _walk(place, old.get(key, _ABSENT), new.get(key, _ABSENT))
    elif isinstance(old, list) and isinstance(new, list):
        before, after = _named(old), _named(new)
        for key in {**before, **after}:
            yield from _walk(f"{path}[{key}]", before.get(key, _ABSENT), after.get(key, _ABSENT))
    elif old != new:
        yield Difference(path, None if old is _ABSENT else old, None if new is _ABSENT else new)


def _named(items: list[Any]) -> dict[str, Any]:
    """Items by name, so that one put in front isn't a difference of all; by position where they have no names."""
    names = [item.get("name") if isinstance(item, Mapping) else None for item in items]
    if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
        return dict(zip(map(str, names), items, strict=True))
    return {str(number): item for number, item in enumerate(items)}


def _shown(value: Any) -> str:
    if value is None:
        return "(none)"
    if isinstance(value, str) and "\n" in value:
        return f"(text of {len(value.splitlines())} lines)"
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    text = text.removesuffix("\n...").strip()
    return text if len(text) <= _SHORT else text[: _SHORT - 3] + "..."


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that a changed line is a line of the diff."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]


def _lines(obj: dict[str, Any]) -> list[str]:
    return yaml.dump(obj, Dumper=_Dumper, sort_keys=True, allow_unicode=True, width=120).splitlines(keepends=True)
