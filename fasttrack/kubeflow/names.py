"""Names that Kubernetes takes, made from names that people gave: a stream may be called anything."""

from __future__ import annotations

import hashlib
import re

from fasttrack.usecase import UseCase

#: The longest DNS label, and the longest value of a label.
LABEL = 63

_DIGEST = 6
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_1123_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")


def object_name(text: str, limit: int = LABEL) -> str:
    """`text` as the name of an object: a DNS-1035 label of at most `limit` characters.

    A text that is one already stays as it is. Any other ends in six hex digits of its own digest, so that two texts
    never share a name, however alike they look.
    """
    if len(text) <= limit and is_dns_1035(text):
        return text
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not plain[:1].isalpha():
        plain = f"x-{plain}".rstrip("-")
    return f"{plain[: limit - _DIGEST - 1].rstrip('-')}-{_digest(text)}"


def label_value(text: str) -> str:
    """`text` as the value of a label, cut as `object_name` cuts."""
    if len(text) <= LABEL and is_label_value(text):
        return text
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-_.")
    return f"{plain[: LABEL - _DIGEST - 1].rstrip('-_.')}-{_digest(text)}".lstrip("-")


def usecase_object(usecase: UseCase) -> str:
    """Name of the ConfigMap that holds the use case."""
    return f"{usecase.name}-usecase"


def launch_prefix(usecase: UseCase, step: str, limit: int) -> str:
    """What the names of all objects that a step launches begin with; a run's own eight digits follow after a dash.

    Args:
        usecase: the use case.
        step: its name, with the round where it can run again.
        limit: how long the whole name may be.
    """
    return object_name(f"{usecase.name}-{step}", limit - 9)


def is_dns_1035(text: str) -> bool:
    """Whether `text` is a DNS-1035 label: what Services, and what makes them, may be called."""
    return len(text) <= LABEL and _DNS_1035.fullmatch(text) is not None


def is_dns_1123_subdomain(text: str) -> bool:
    """Whether `text` is a DNS-1123 subdomain: what most objects may be called."""
    return len(text) <= 253 and _DNS_1123_SUBDOMAIN.fullmatch(text) is not None


def is_label_value(text: str) -> bool:
    """Whether `text` may be the value of a label."""
    return len(text) <= LABEL and _LABEL_VALUE.fullmatch(text) is not None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]
