"""SHAP and LIME in the request: time on one core, and error against a long run.

python tests/bench/bench_explain.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

ROWS = 12


def measure(architecture: str) -> None:
    import torch

    from fasttrack.explain.encoded import EncodedModel
    from fasttrack.explain.lime_values import LimeExplainer
    from fasttrack.explain.shap_values import ShapExplainer
    from fasttrack.models.inference import Predictor
    from fasttrack.registry import package
    from tests.integration import serving_package

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        built = serving_package.build(Path(folder), architecture, count=6000, steps=60)
        files = package.load_verified(built.path, built.verify_key.read_bytes())
    predictor = Predictor.from_files(files)
    model = EncodedModel(predictor.encoder, lambda batch: predictor.predict(batch).probability)
    rows = model.flatten(predictor.encoder.encode(built.rows.columns))
    spread = model.predict(rows)
    features, width = len(model.space.names), rows.shape[1]
    print(
        f"\n{architecture}: {features} features, {width} encoded columns, "
        f"predictions {spread.mean():.3f} +- {spread.std():.3f}"
    )
    print(f"{'method':34}{'ms median':>10}{'ms p95':>8}{'rel. error':>12}{'|base+sum-p|':>14}")
    for size in (8, 16):
        reference = ShapExplainer(model.space, rows[:200], background_rows=size, permutations=300, seed=99)
        truth = [reference.contributions(row)[1] for row in rows[-ROWS:]]
        for permutations in (1, 2, 4, 8):
            explainer = ShapExplainer(model.space, rows[:200], background_rows=size, permutations=permutations)
            report(f"SHAP {size} rows, {permutations} pairs", explainer, model, rows[-ROWS:], truth)
    report("LIME 1000 samples", LimeExplainer(model.space, rows[:200]), model, rows[-ROWS:], None)


def report(title, explainer, model, rows, truth) -> None:
    values = [None] * len(model.space.names)
    explainer.explain(rows[0], values)
    seconds, errors, gaps = [], [], []
    for position, row in enumerate(rows):
        start = time.perf_counter()
        found = explainer.explain(row, values)
        seconds.append(time.perf_counter() - start)
        gaps.append(abs(found.base_value + sum(a.contribution for a in found.attributions) - found.prediction))
        if truth is not None:
            got = {a.feature: a.contribution for a in found.attributions}
            vector = np.array([got[name] for name in model.space.names])
            errors.append(np.linalg.norm(vector - truth[position]) / np.linalg.norm(truth[position]))
    error = f"{np.mean(errors):12.4f}" if errors else f"{'-':>12}"
    middle, high = np.quantile(seconds, (0.5, 0.95)) * 1000
    print(f"{title:34}{middle:10.1f}{high:8.1f}{error}{max(gaps) if truth is not None else float('nan'):14.1e}")


if __name__ == "__main__":
    for name in ("mlp", "lstm"):
        measure(name)
