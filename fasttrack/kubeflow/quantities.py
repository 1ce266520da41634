"""Kubernetes quantities (``250m``, ``1Gi``) and Spark's sizes (``4g``) as numbers, and back as people write them."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

from fasttrack.errors import ConfigurationError

_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E)|[eE]([+-]?\d+))?")
_FACTORS = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{word: Decimal(1000) ** power for power, word in enumerate("kMGTPE", start=1)},
    **{f"{word}i": Decimal(1024) ** power for power, word in enumerate("KMGTPE", start=1)},
}
# The JVM's notation, which Spark reads: always powers of two.
_JVM = re.compile(r"(\d+)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)


def quantity(text: str | int | float) -> Decimal:
    """A Kubernetes quantity as a number: cores for CPU, bytes for memory and storage.

    Raises:
        ConfigurationError: it isn't a quantity.
    """
    found = _QUANTITY.fullmatch(str(text).strip())
    if not found:
        raise ConfigurationError(
            f"{text!r} is not a quantity.", fix="Write a number with a unit, such as 500m, 2 or 4Gi."
        )
    number, unit, exponent = found.groups()
    return Decimal(number) * (Decimal(10) ** int(exponent) if exponent else _FACTORS[unit or ""])


def jvm_bytes(text: str) -> Decimal:
    """A size as Spark writes it (``4g``, ``512m``): bytes.

    Raises:
        ConfigurationError: it isn't a size.
    """
    found = _JVM.fullmatch(text.strip())
    if not found:
        raise ConfigurationError(f"{text!r} is not a size of memory.", fix="Write it like 512m or 4g.")
    power = " kmgtp".index(found[2].lower() or " ")
    return Decimal(found[1]) * Decimal(1024) ** power


def cores_text(number: Decimal) -> str:
    """CPU cores: ``500m`` below one, ``19.1`` above."""
    if number == number.to_integral_value():
        return str(int(number))
    return f"{int((number * 1000).to_integral_value())}m" if number < 1 else f"{number.normalize():f}"


def bytes_text(number: Decimal) -> str:
    """Bytes in the largest binary unit that leaves a number of at least 1: ``1.5Gi``."""
    for unit in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
        if abs(number) >= _FACTORS[unit]:
            short = (number / _FACTORS[unit] * 10).to_integral_value(ROUND_CEILING) / 10
            return f"{int(short) if short == short.to_integral_value() else short}{unit}"
    return str(int(number))
