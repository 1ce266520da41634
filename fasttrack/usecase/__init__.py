"""The use case: one strict YAML file, its models, its JSON Schema."""

from fasttrack.usecase.features import Column
from fasttrack.usecase.loader import canonical_text, dump, json_schema, load, parse
from fasttrack.usecase.spec import UseCase

__all__ = ["Column", "UseCase", "canonical_text", "dump", "json_schema", "load", "parse"]
