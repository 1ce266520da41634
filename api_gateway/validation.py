"""Requests against the model's signature: keys, events, raw features; each refusal with the name and a suggestion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fasttrack.errors import InvalidRequestError
from fasttrack.ingest.contracts import partial_schema
from fasttrack.ingest.rowcheck import Rejected, RowChecker
from fasttrack.usecase import UseCase
from fasttrack.usecase.spec import suggestion

_MAX_TEXT: Final = 256
_NAMED: Final = 5
_SUBJECTS: Final = ("entity", "features", "event")
_TYPES: Final = {type(None): "null", bool: "a boolean", str: "a string", list: "a list", dict: "an object"}


@dataclass(frozen=True)
class Question:
    """What is asked about: an entity by its keys, raw features, or an event; exactly one of them is not None."""

    entity: dict[str, str] | None = None
    features: dict[str, Any] | None = None
    event: dict[str, Any] | None = None
    warnings: list[dict[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The canonical body, for the cache key and the request's hash."""
        parts = {"entity": self.entity, "features": self.features, "event": self.event}
        return {name: part for name, part in parts.items() if part is not None}


@dataclass(frozen=True)
class _Feature:
    name: str
    role: str
    nullable: bool
    minimum: float | None
    maximum: float | None
    categories: frozenset[str]
    channels: int
    length: int


class Validator:
    """Checks requests of one model version.

    Args:
        usecase: the use case that the model serves.
        signature: the package's ``signature.json``: its ``features`` and ``entity``.
        refuse_out_of_range: whether a value outside the training range is an error rather than a warning.

    Attributes:
        entity_keys: names of the prediction entity's keys.
        event_schema: the JSON Schema of a prediction event, of which any field may be left out.
    """

    def __init__(self, usecase: UseCase, signature: Mapping[str, Any], *, refuse_out_of_range: bool = False) -> None:
        columns = {column.name: column for column in usecase.columns()}
        entity = signature.get("entity") or {}
        self.entity_keys: tuple[str, ...] = tuple(
            entity.get("keys") or usecase.entities[usecase.prediction.entity].keys
        )
        self._stream = usecase.prediction.stream
        contract = usecase.streams[self._stream]
        self._fields = contract.fields
        self._checker = RowChecker(contract)
        self.event_schema = partial_schema(contract, f"event of {usecase.name}")
        self._refuse = refuse_out_of_range
        self._features: dict[str, _Feature] = {}
        for item in signature.get("features", []):
            column = columns.get(item["name"])
            self._features[item["name"]] = _Feature(
                name=item["name"],
                role=item["role"],
                nullable=bool(item.get("nullable", False)),
                minimum=item.get("minimum"),
                maximum=item.get("maximum"),
                categories=frozenset(item.get("categories") or ()),
                channels=len(column.channels) if column else 0,
                length=column.length if column else 0,
            )

    def question(self, body: Any, allowed: Iterable[str]) -> Question:
        """Read ``entity``, ``features`` or ``event`` of a request body.

        Args:
            body: parsed JSON.
            allowed: further keys that the route knows.

        Raises:
            InvalidRequestError: the body is not an object, has unknown keys, not exactly one of the three, or
                values that don't fit the signature.
        """
        if not isinstance(body, dict):
            raise InvalidRequestError("the body is not a JSON object.", where="body", fix='Send {"entity": {...}}.')
        known = {*_SUBJECTS, *allowed}
        for key in body:
            if key not in known:
                raise InvalidRequestError(
                    f"{key[:64]!r} is not a field of this request.", where="body", fix=_hint(key, known)
                )
        given = [name for name in _SUBJECTS if body.get(name) is not None]
        if len(given) != 1:
            raise InvalidRequestError(
                "exactly one of entity, features and event is needed.", where="body", fix="Give one of them."
            )
        subject = body[given[0]]
        if given[0] == "entity":
            return Question(entity=self._entity(subject))
        if given[0] == "event":
            return Question(event=self._event(subject))
        warnings: list[dict[str, str]] = []
        return Question(features=self._raw(subject, warnings), warnings=warnings)

    def _event(self, given: Any) -> dict[str, Any]:
        """What is known of a prediction event, each value by its contract: a null is as good as a field left out.

        The drain's row check judges, as it does in the transformer behind.
        """
        if not isinstance(given, dict):
            raise InvalidRequestError(f"event is {_kind(given)}, not an object.", where="body.event")
        for name, value in given.items():
            if name not in self._fields:
                raise InvalidRequestError(
                    f"the event has no field {name[:64]!r}.", where="body.event", fix=_hint(name, self._fields)
                )
            try:
                self._checker.fields({name: value})
            except Rejected as error:
                raise InvalidRequestError(
                    f"{error.rejection.detail} ({error.rejection.reason}).",
                    where=f"body.event.{name}",
                    fix=f"Send {name} as the contract of stream {self._stream!r} has it, or leave it out.",
                ) from error
        found = {name: value for name, value in given.items() if value is not None}
        if not found:
            raise InvalidRequestError("there is no field with a value.", where="body.event", fix="Give at least one.")
        return found

    def _entity(self, given: Any) -> dict[str, str]:
        if not isinstance(given, dict):
            raise InvalidRequestError(
                f"entity is {_kind(given)}, not an object.", where="body.entity", fix=self._example()
            )
        for key in given:
            if key not in self.entity_keys:
                raise InvalidRequestError(
                    f"{key[:64]!r} is not a key of the entity.", where="body.entity", fix=_hint(key, self.entity_keys)
                )
        found: dict[str, str] = {}
        for key in self.entity_keys:
            value = given.get(key)
            if not isinstance(value, str):
                what = (
                    f"key {key!r} is missing." if key not in given else f"key {key!r} is {_kind(value)}, not a string."
                )
                raise InvalidRequestError(what, where=f"body.entity.{key}", fix=self._example())
            if not 0 < len(value) <= _MAX_TEXT or not value.isprintable():
                raise InvalidRequestError(
                    f"key {key!r} is not a printable string of 1 to {_MAX_TEXT} characters.", where=f"body.entity.{key}"
                )
            found[key] = value
        return found

    def _example(self) -> str:
        keys = ", ".join(f'"{key}": "..."' for key in self.entity_keys)
        return f'Send "entity": {{{keys}}}.'

    def _raw(self, given: Any, warnings: list[dict[str, str]]) -> dict[str, Any]:
        if not isinstance(given, dict):
            raise InvalidRequestError(f"features is {_kind(given)}, not an object.", where="body.features")
        for name in given:
            if name not in self._features:
                raise InvalidRequestError(
                    f"the model has no feature {name[:64]!r}.", where="body.features", fix=_hint(name, self._features)
                )
        required = [f.name for f in self._features.values() if not f.nullable and given.get(f.name) is None]
        if required:
            more = f" and {len(required) - _NAMED} more" if len(required) > _NAMED else ""
            raise InvalidRequestError(
                f"missing features: {', '.join(required[:_NAMED])}{more}.",
                where="body.features",
                fix="Give them, or ask by entity: then they are looked up.",
            )
        found = {
            name: self._value(self._features[name], value, warnings)
            for name, value in given.items()
            if value is not None
        }
        if not found:
            raise InvalidRequestError(
                "there is no feature with a value.", where="body.features", fix="Give at least one."
            )
        return found

    def _value(self, feature: _Feature, value: Any, warnings: list[dict[str, str]]) -> Any:
        if feature.role == "category":
            return self._category(feature, value, warnings)
        if feature.role == "sequence":
            return self._sequence(feature, value)
        number = _number(value, feature.name, "a number")
        low, high = feature.minimum, feature.maximum
        if (low is not None and number < low) or (high is not None and number > high):
            self._unusual(feature, "out_of_range", f"{number:g} is outside {low} to {high}", warnings)
        return number

    def _category(self, feature: _Feature, value: Any, warnings: list[dict[str, str]]) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            # Numbers that are marked categorical are kept as their integer's text.
            value = str(value)
        if not isinstance(value, str):
            raise _wrong_type(feature.name, value, "a string")
        if len(value) > _MAX_TEXT:
            raise InvalidRequestError(
                f"{feature.name} is longer than {_MAX_TEXT} characters.", where=_place(feature.name)
            )
        if feature.categories and value not in feature.categories:
            self._unusual(feature, "unknown_category", "the model has not seen this category in training", warnings)
        return value

    def _sequence(self, feature: _Feature, value: Any) -> list[list[float | None]]:
        if not isinstance(value, list):
            raise _wrong_type(feature.name, value, "a list of lists of numbers, oldest first")
        if len(value) > feature.length:
            raise InvalidRequestError(
                f"{feature.name} has {len(value)} steps.",
                where=_place(feature.name),
                fix=f"Give at most {feature.length}.",
            )
        for step in value:
            if not isinstance(step, list) or len(step) != feature.channels:
                raise InvalidRequestError(
                    f"a step of {feature.name} is not a list of {feature.channels} numbers.", where=_place(feature.name)
                )
        return [[None if x is None else _number(x, feature.name, "numbers") for x in step] for step in value]

    def _unusual(self, feature: _Feature, code: str, detail: str, warnings: list[dict[str, str]]) -> None:
        if self._refuse:
            raise InvalidRequestError(f"{feature.name}: {detail}.", where=_place(feature.name), fix="Check the value.")
        warnings.append({"code": code, "feature": feature.name, "detail": f"{detail}."})


def _number(value: Any, name: str, wanted: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong_type(name, value, wanted)
    return float(value)


def _wrong_type(name: str, value: Any, wanted: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{name} is {_kind(value)}, not {wanted}.", where=_place(name), fix=f"Send {wanted} or null."
    )


def _kind(value: Any) -> str:
    return _TYPES.get(type(value), "a number")


def _place(name: str) -> str:
    return f"body.features.{name}"


def _hint(word: str, known: Iterable[str]) -> str:
    return suggestion(word[:64], known).capitalize()
