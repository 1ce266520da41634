"""Training an amortized explainer beside a model, and measuring it on rows that it never saw."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from fasttrack.evaluation.evaluate import BACKGROUND_ROWS
from fasttrack.explain.amortized import NOTE, WEIGHTS, AmortizedExplainer, AmortizedNetwork, dump
from fasttrack.explain.arrays import Floats
from fasttrack.explain.batched_shap import BatchedShap
from fasttrack.explain.encoded import background_rows
from fasttrack.explain.layered import LayeredModel
from fasttrack.explain.long_run import long_run, relative_error
from fasttrack.models.batch import Batch
from fasttrack.models.inference import Predictor
from fasttrack.models.threads import single_thread
from fasttrack.training.data import load_splits, thin
from fasttrack.training.files import dump_json, write_file
from fasttrack.usecase import UseCase

#: Rows whose SHAP values are computed to learn from.
ROWS: Final = 4096
#: Rows of the package's background that the errors are measured on.
HELD_OUT: Final = 32
_READ: Final = ("model.safetensors", "config.json", "conformal.json", "background.parquet")
_PERMUTATIONS: Final = 32
_EPOCHS: Final = 60
#: The teacher's errors average out over many rows: fewer points, more rows.
_PAIRS: Final = 8
_BATCH: Final = 128
_RATE: Final = 3e-3


def prepared(files: Mapping[str, bytes]) -> tuple[BatchedShap, Floats]:
    """The SHAP explainer of a package, as its server makes it, and the encoded rows (K, D) of its background.

    Raises:
        IntegrityError: a file is absent or damaged.
    """
    model = LayeredModel(Predictor.from_files(files))
    rows = background_rows(model.encoded, files["background.parquet"])
    return BatchedShap(model, rows), rows


def fit(
    files: Mapping[str, bytes], batch: Batch, *, seed: int = 0, epochs: int = _EPOCHS, rows: int = ROWS
) -> dict[str, bytes]:
    """Train an explainer for a model and report its error; the same inputs give the same bytes.

    It learns the estimates of `BatchedShap` (their small errors average out: Covert et al., "Stochastic Amortization",
    2024). The rows of the package's background are kept out of training; on them both are held against a long run.

    Args:
        files: a model package's ``model.safetensors``, ``config.json``, ``conformal.json``, ``background.parquet``.
        batch: encoded training rows, of which `rows` are drawn.
        seed: of the draw, the initial weights and the order.
        epochs: passes over the drawn rows.
        rows: how many to learn from.

    Returns:
        ``explainer.safetensors`` and ``explainer.json``.

    Raises:
        IntegrityError: a file is absent or damaged.
    """
    with single_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _fitted(files, batch, seed, epochs, rows)


def _fitted(files: Mapping[str, bytes], batch: Batch, seed: int, epochs: int, rows: int) -> dict[str, bytes]:
    shap, background = prepared(files)
    learnt = _drawn(shap, batch, background, rows, seed)
    teacher = BatchedShap(shap.model, shap.background, background_rows=len(shap.background), pairs=_PAIRS, seed=seed)
    targets = np.stack([teacher.contributions(row)[1] for row in learnt])
    explainer = _trained(shap, learnt, targets, epochs)
    note = {
        "method": "amortized",
        "features": list(shap.model.names),
        "rows": len(learnt),
        "seed": seed,
        "error": errors(shap, explainer, background),
    }
    return {WEIGHTS: dump(explainer.network), NOTE: dump_json(note)}


def fit_folder(usecase: UseCase, features_path: str | Path, model_dir: str | Path) -> None:
    """Train the explainer of an evaluated model and write its two files beside the model's; see `fit`.

    Raises:
        NotFoundError: there is no feature table.
        IntegrityError: the model's files are damaged.
        StorageError: the folder can't be written.
    """
    folder = Path(model_dir)
    files = {name: (folder / name).read_bytes() for name in _READ}
    seed = usecase.training.seed
    train = load_splits(usecase, features_path, seed=seed).train
    train = thin(train, min(1.0, (ROWS + 2 * BACKGROUND_ROWS) / len(train)), seed)
    batch = Predictor.from_files(files).encoder.encode(train.columns, strict=False)
    for name, content in fit(files, batch, seed=seed).items():
        write_file(folder / name, content)


def _drawn(shap: BatchedShap, batch: Batch, background: Floats, count: int, seed: int) -> Floats:
    model = shap.model
    assert isinstance(model, LayeredModel)
    kept = {row.tobytes() for row in background}
    order = np.random.default_rng(seed).permutation(len(batch))[: count + len(background)]
    rows = model.encoded.flatten(batch.take(np.sort(order)))
    return np.stack([row for row in rows if row.tobytes() not in kept][:count])


def _trained(shap: BatchedShap, rows: Floats, targets: Floats, epochs: int) -> AmortizedExplainer:
    network = AmortizedNetwork(len(shap.model.bias), len(shap.model.names))
    explainer = AmortizedExplainer(shap, network)
    with torch.no_grad():
        inputs = shap.model.inputs(rows)
        sums = shap.model.sums(inputs)
        total = shap.model.probability(sums) - shap.base
        network.centre.copy_(sums.mean(dim=0))
        network.spread.copy_(sums.std(dim=0) + 1e-6)
    network.requires_grad_(True)
    wanted = torch.from_numpy(targets.astype(np.float32))
    # In units of the values' own size: the learning rate then suits every model.
    scale = float(wanted.square().sum(dim=1).mean().sqrt()) + 1e-12
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-3)
    steps = epochs * -(-len(rows) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=max(2, steps), pct_start=0.1)
    for _ in range(epochs):
        for part in torch.split(torch.randperm(len(rows)), _BATCH):
            found = explainer.estimates(inputs[part], sums[part], total[part])
            loss = ((found - wanted[part]) / scale).square().sum(dim=1).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    network.requires_grad_(False)
    return explainer


def errors(shap: BatchedShap, amortized: AmortizedExplainer, background: Floats) -> dict[str, Any]:
    """How far both explainers are from a long run, on background rows that hidden features are not taken from.

    Returns:
        The number of ``rows``; the ``standard_error`` of the long run itself; for ``shap`` and ``amortized`` the
        ``median`` and the 95th percentile ``p95`` of the relative errors; ``additivity``, the largest gap between
        base value plus contributions and the prediction. All relative but the last.
    """
    hidden = {row.tobytes() for row in shap.background}
    rows = [row for row in background if row.tobytes() not in hidden][:HELD_OUT]
    # A background that is wholly used for hiding leaves no other rows.
    rows = rows or list(background[:HELD_OUT])
    truths = [long_run(shap.model, shap.background, row, permutations=_PERMUTATIONS) for row in rows]
    explained = {"shap": shap.contributions, "amortized": amortized.contributions}
    found: dict[str, Any] = {
        name: _summary([relative_error(explain(row)[1], truth) for row, (truth, _) in zip(rows, truths, strict=True)])
        for name, explain in explained.items()
    }
    gaps = []
    for row in rows:
        whole = amortized.explain(row, [None] * len(amortized.model.names))
        gaps.append(abs(whole.base_value + sum(a.contribution for a in whole.attributions) - whole.prediction))
    spread = [float(np.linalg.norm(error) / np.linalg.norm(truth)) for truth, error in truths]
    return {**found, "rows": len(rows), "standard_error": float(np.median(spread)), "additivity": max(gaps)}


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "p95": float(np.quantile(values, 0.95))}
