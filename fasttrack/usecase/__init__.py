"""The use case: one strict YAML file, its models, its JSON Schema."""

from fasttrack.usecase.features import Column
from fasttrack.usecase.loader import dump, json_schema, load, parse
from fasttrack.usecase.spec import UseCase

__all__ = ["Column", "UseCase", "dump", "json_schema", "load", "parse"]
