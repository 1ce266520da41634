"""Which way each score points; no numpy, so that the compiler can have it."""

from __future__ import annotations

#: Whether more is better, by metric.
HIGHER_IS_BETTER = {"auc": True, "average_precision": True, "log_loss": False, "mae": False}
