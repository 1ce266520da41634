"""Whether two model versions answer the same requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fasttrack.errors import ConflictError


def check_compatible(usecase: str, champion: Mapping[str, Any], challenger: Mapping[str, Any]) -> None:
    """Do nothing if every request that the champion takes is one that the challenger takes.

    Ranges and known categories may differ: they are warnings about a request, no part of its form.

    Args:
        usecase: its name, for the message.
        champion, challenger: their packages' ``signature.json``.

    Raises:
        ConflictError: entity, features, label or outputs differ.
    """
    ours, theirs = _form(champion), _form(challenger)
    different = [what for what in ours if ours[what] != theirs[what]]
    features = {name for name in {*ours["features"], *theirs["features"]}
                if ours["features"].get(name) != theirs["features"].get(name)}  # fmt: skip
    if different:
        named = f" ({', '.join(sorted(features)[:5])})" if features else ""
        raise ConflictError(
            f"the challenger takes other requests: {', '.join(different)}{named} differ.", where=usecase,
            fix="Publish it: a rollout compares versions on the same requests.",
        )  # fmt: skip


def _form(signature: Mapping[str, Any]) -> dict[str, Any]:
    features = {each["name"]: (each.get("role"), bool(each.get("nullable"))) for each in signature.get("features", ())}
    outputs = [(each.get("name"), each.get("datatype")) for each in signature.get("outputs", ())]
    return {
        "entity": signature.get("entity"),
        "features": features,
        "outputs": outputs,
        "label": (signature.get("positive"), signature.get("unit")),
    }
