"""Event streams and their contracts."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fasttrack.usecase.durations import Duration

Name = r"^[a-z][a-z0-9_]{0,62}$"
_AVRO_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")


class Strict(BaseModel):
    """Base of every part of a use case: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FieldContract(Strict):
    """What one field of an event may hold."""

    type: Literal["string", "integer", "number", "boolean", "timestamp"]
    nullable: bool = False
    minimum: int | float | None = Field(None, description="smallest allowed value (numbers)")
    maximum: int | float | None = Field(None, description="largest allowed value (numbers)")
    enum: tuple[str, ...] | None = Field(None, strict=False, description="the allowed values (strings)")
    pattern: str | None = Field(None, description="a regular expression that the whole string matches")
    max_length: int = Field(256, gt=0, description="longest allowed string, in characters")
    description: str = ""

    @model_validator(mode="after")
    def _bounds_fit_the_type(self) -> Self:
        numeric = self.type in ("integer", "number")
        if not numeric and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"minimum and maximum are for numbers, not for a {self.type}")
        if self.type != "string" and (self.enum is not None or self.pattern is not None):
            raise ValueError(f"enum and pattern are for strings, not for a {self.type}")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern is not a regular expression: {error}") from error
        return self


class Stream(Strict):
    """One topic and the contract of its events."""

    topic: str = Field("", description="Kafka topic; default: <use case>.<stream>")
    partitions: int = Field(4, gt=0, le=1024)
    key: str = Field(description="the field whose value is the message key: events of one key keep their order")
    event_id: str = Field(
        description="the field that identifies an event: a second one with the same id is a duplicate"
    )
    event_time: str = Field(description="the timestamp field that says when the event became known")
    allowed_lateness: Duration = Field(timedelta(hours=1), description="how far behind the watermark an event may come")
    dedup_window: Duration = Field(timedelta(days=400), description="within this event time, duplicates are found")
    fields: dict[str, FieldContract] = Field(min_length=1)
    description: str = ""
    max_bytes: int = Field(65536, gt=0, description="largest allowed message value")
    encoding: Literal["json", "avro"] = Field("json", description="how events are written in messages")

    @model_validator(mode="after")
    def _names_fit_the_encoding(self) -> Self:
        odd = [name for name in self.fields if not _AVRO_NAME.fullmatch(name)]
        if self.encoding == "avro" and odd:
            raise ValueError(f"Avro allows only letters, digits and _ in names of fields, not {odd[0]!r}")
        return self


class Entity(Strict):
    """Something that features are about, named by the fields that identify it."""

    keys: tuple[str, ...] = Field(min_length=1, strict=False)
    description: str = ""
