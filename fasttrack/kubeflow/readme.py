"""A component's README, made from its signature and docstring, so that it can't say anything else."""

from __future__ import annotations

from typing import Any

import docstring_parser


def component_readme(component: Any) -> str:
    """The Markdown text of a component's README.

    Args:
        component: a component made by ``dsl.component``, documented in Google style.
    """
    spec = component.component_spec
    told = docstring_parser.parse(component.python_func.__doc__ or "")
    meaning = {parameter.arg_name: parameter.description or "" for parameter in told.params}
    lines = [
        f"# {component.name}",
        "",
        told.short_description or "",
        "",
        f"Image: `{spec.implementation.container.image}`. Library: `fasttrack.steps.{component.name}`.",
        "",
        "| input | type | meaning |",
        "|---|---|---|",
    ]
    lines += [f"| `{name}` | {_type(given)} | {meaning[name]} |" for name, given in (spec.inputs or {}).items()]
    lines += ["", "| output | type | meaning |", "|---|---|---|"]
    for name, given in (spec.outputs or {}).items():
        text = (told.returns.description or "") if name == "Output" and told.returns else meaning.get(name, "")
        lines.append(f"| `{name}` | {_type(given)} | {' '.join(text.split())} |")
    return "\n".join(lines) + "\n"


def _type(given: Any) -> str:
    return str(given.type).split("@", 1)[0].removeprefix("system.")
