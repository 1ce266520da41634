"""The scores that training and tuning compare models by; numpy, ties and all exact."""

from __future__ import annotations

import numpy as np

from fasttrack.models.batch import Array


def auc(positive: Array, score: Array) -> float:
    """Area under the ROC curve (rank statistic, ties count half); NaN when a class is absent."""
    truth = np.asarray(positive, bool)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return float("nan")
    _, group, sizes = np.unique(np.asarray(score, np.float64), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[group]
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(positive: Array, score: Array) -> float:
    """Precision averaged over the steps of recall; NaN when there is no positive."""
    truth = np.asarray(positive, np.float64)
    if not truth.sum():
        return float("nan")
    order = np.argsort(-np.asarray(score, np.float64), kind="stable")
    ranked, hits = np.asarray(score, np.float64)[order], np.cumsum(truth[order])
    # Only the last row of a run of equal scores is a real threshold.
    ends = np.r_[np.flatnonzero(np.diff(ranked)), len(ranked) - 1]
    recall_steps = np.diff(np.r_[0.0, hits[ends]]) / truth.sum()
    return float((recall_steps * hits[ends] / (ends + 1)).sum())


def log_loss(positive: Array, probability: Array) -> float:
    """Mean negative log-likelihood in nats."""
    p = np.clip(np.asarray(probability, np.float64), 1e-7, 1 - 1e-7)
    truth = np.asarray(positive, np.float64)
    return float(-(truth * np.log(p) + (1 - truth) * np.log1p(-p)).mean())


def mae(label: Array, value: Array) -> float:
    """Mean absolute error, in label units."""
    return float(np.abs(np.asarray(label, np.float64) - np.asarray(value, np.float64)).mean())
