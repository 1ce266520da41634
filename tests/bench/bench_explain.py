"""SHAP, amortized and LIME in the request: time on one thread, and error against a long run, beside shap's own.

python tests/bench/bench_explain.py [--table FOLDER] [--rows 12] [--architecture mlp]

Without a feature table of the flights use case (--table, a folder of Parquet files) synthetic rows of it are used.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import warnings
from pathlib import Path

import numpy as np

FEATURES = 40
TRAINING_ROWS = 60_000
SHOWN = 200


def columns_of(usecase, count):
    """Categories, the sequence, and a seeded draw of the numbers: `count` features."""
    numbers = [column for column in usecase.columns() if column.role == "numeric"]
    others = [column for column in usecase.columns() if column.role != "numeric"]
    drawn = np.random.default_rng(0).permutation(len(numbers))[: count - len(others)]
    return [numbers[position] for position in sorted(drawn)] + others


def rows_of(usecase, table):
    from tests.integration import serving_package

    if table is None:
        return serving_package.synthetic_rows(usecase, 20_000, 0)
    from fasttrack.training.data import load_rows

    rows = load_rows(usecase, table)
    drawn = np.random.default_rng(0).permutation(len(rows))[:TRAINING_ROWS]
    return rows.take(np.sort(drawn))


def trained(architecture, encoder, batch, positive):
    """A network fitted to tell the positive rows: four passes of AdamW over all rows."""
    import torch

    from fasttrack.models.architectures import build
    from fasttrack.models.layers import Sizes

    torch.manual_seed(0)
    network = build(architecture, {}, Sizes.of(encoder))
    network.fit_inputs(batch.numeric)
    truth = torch.from_numpy(positive)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    steps = 4 * -(-len(positive) // 512)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    random = np.random.default_rng(0)
    for _ in range(4):
        order = random.permutation(len(positive))
        for start in range(0, len(order), 512):
            part = order[start : start + 512]
            logit, _ = network(*(torch.from_numpy(a) for a in batch.take(part).tensors().values()))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, truth[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def prepared(options):
    """The model, its package's background, encoded rows to explain, and files to train the amortized explainer with."""
    import pyarrow.parquet as pq
    import safetensors.torch

    from fasttrack import usecase as usecases
    from fasttrack.evaluation.background import background
    from fasttrack.explain.layered import LayeredModel
    from fasttrack.models.calibration import Conformal, Platt
    from fasttrack.models.encoding import Encoder
    from fasttrack.models.inference import Predictor
    from fasttrack.training import scores
    from tests.integration import serving_package

    usecase = usecases.load(serving_package.USECASE_FILE)
    rows, columns = rows_of(usecase, options.table), columns_of(usecase, FEATURES)
    cut = len(rows) * 5 // 6
    learn, test = (rows.take(part) for part in (np.arange(cut), np.arange(cut, len(rows))))
    encoder = Encoder.fit(columns, learn.columns)
    names = {name for column in columns for name in (column.name, f"{column.name}_length")}
    encoded = [
        encoder.encode({n: v for n, v in part.columns.items() if n in names}, strict=False) for part in (learn, test)
    ]
    network = trained(options.architecture, encoder, encoded[0], learn.positive)
    config = {"architecture": options.architecture, "parameters": {}, "encoder": encoder.to_json()}
    config |= {"regression": {"center": 0.0, "scale": 1.0}, "calibration": Platt().to_json()}
    table = background(columns, learn, 128, 0)
    assert pq.read_table(io.BytesIO(table)).num_rows == 128
    files = {
        "model.safetensors": safetensors.torch.save(network.state_dict()),
        "config.json": json.dumps(config).encode(),
        "conformal.json": json.dumps(Conformal(0.9, 5.0, 100).to_json()).encode(),
        "background.parquet": table,
    }
    model = LayeredModel(Predictor.from_files(files))
    probability = model.encoded.predict(model.encoded.flatten(encoded[1]))
    found = scores.auc(test.positive, probability.astype(float))
    print(
        f"{options.architecture}, {len(model.names)} features, {len(learn)} training rows of "
        f"{'a feature table' if options.table else 'synthetic data'}; test AUC {found:.3f}, "
        f"predictions {probability.mean():.3f} +- {probability.std():.3f}"
    )
    return model, files, encoded[0], model.encoded.flatten(encoded[1])


def measure(options) -> None:
    import torch

    from fasttrack.explain.amortized import load
    from fasttrack.explain.amortized_fit import fit
    from fasttrack.explain.amortized_fit import prepared as explainer_of
    from fasttrack.explain.batched_shap import BatchedShap
    from fasttrack.explain.lime_values import LimeExplainer
    from fasttrack.explain.long_run import long_run
    from fasttrack.explain.shap_values import ShapExplainer

    torch.set_num_threads(1)
    model, files, batch, test = prepared(options)
    shap, background = explainer_of(files)
    shown = test[np.random.default_rng(1).permutation(len(test))[:SHOWN]]
    long = [long_run(model, shap.background, row, permutations=options.permutations) for row in shown[: options.rows]]
    truth = [values for values, _ in long]
    spread = np.median([np.linalg.norm(e) / np.linalg.norm(t) for t, e in long])
    print(f"errors are those of {options.rows} rows; relative standard error of the long run {spread:.4f}\n")
    heads = f"{'method':44}{'ms median':>10}{'ms p99':>8}{'CPU ms':>8}"
    print(f"{heads}{'error':>8}{'p95':>8}{'|gap|':>10}{'evaluations':>13}")
    blank = [None] * len(model.names)
    table = []

    def report(title, explain, asked, count=SHOWN, known=True):
        table.append(timed(title, explain, shown[:count], truth if known else [], asked))

    def named(found):
        by_name = {a.feature: a.contribution for a in found.attributions}
        total = found.base_value + sum(by_name.values())
        return np.array([by_name[name] for name in model.names]), abs(total - found.prediction)

    for pairs in (8, 16, 20, 32):
        explainer = BatchedShap(model, background, pairs=pairs)
        title = f"SHAP, {2 * pairs} points a background row{' (served)' if pairs == 20 else ''}"
        report(title, lambda row, e=explainer: named(e.explain(row, blank)), 2 * pairs * 16)
    files |= fit(files, batch)
    print(f"{'':4}package: {json.loads(files['explainer.json'])['error']}")
    amortized = load(shap, files)
    report("amortized", lambda row: named(amortized.explain(row, blank)), 0)
    few = options.rows
    for permutations in (1, 2):
        walks = ShapExplainer(
            model.encoded.space, shap.background, background_rows=len(shap.background), permutations=permutations
        )
        report(
            f"shap's walks on our masker, {permutations} pairs", lambda row, e=walks: named(e.explain(row, blank)),
            permutations * 2 * len(model.names) * 16, few,
        )  # fmt: skip
    for title, explain, asked in of_shap(model, shap.background):
        report(title, explain, asked, few)
    lime = LimeExplainer(model.encoded.space, background)
    report("LIME, 1000 samples", lambda row: named(lime.explain(row, blank)), 1000, few, known=False)
    print(json.dumps({"rows": table}))


def timed(title, explain, rows, truth, asked):
    """One line of the table; the first explanation is not timed."""
    explain(rows[0])
    seconds, busy, gaps, errors = [], [], [], []
    for position, row in enumerate(rows):
        start, used = time.perf_counter(), time.thread_time()
        found, gap = explain(row)
        seconds.append(time.perf_counter() - start)
        busy.append(time.thread_time() - used)
        gaps.append(gap)
        if position < len(truth):
            errors.append(np.linalg.norm(found - truth[position]) / np.linalg.norm(truth[position]))
    middle, high = 1000 * np.quantile(seconds, (0.5, 0.99))
    error, tail = np.quantile(errors, (0.5, 0.95)) if errors else (float("nan"), float("nan"))
    used = 1000 * float(np.median(busy))
    gap = max(gaps) if errors else float("nan")
    print(f"{title:44}{middle:10.2f}{high:8.2f}{used:8.2f}{error:8.4f}{tail:8.4f}{gap:10.1e}{asked:13}", flush=True)
    return {"method": title, "ms": middle, "ms_p99": high, "cpu_ms": used, "error": error, "error_p95": tail}


def of_shap(model, background):
    """shap's explainers, each feature a player: (title, explain, masked rows), by default and at our budget."""
    import shap

    space, features = model.encoded.space, len(model.names)

    def predict_of(row):
        """Rows of 0 and 1, one a feature, to the mean prediction with the others from the background."""

        def predict(present):
            masked = space.masked(present.astype(bool), row, background)
            return space.predict(masked.reshape(-1, masked.shape[-1])).reshape(len(present), -1).mean(axis=1)

        return predict

    def kernel(row, samples):
        explainer = shap.KernelExplainer(predict_of(row), np.zeros((1, features)), silent=True)
        values = explainer.shap_values(np.ones((1, features)), nsamples=samples, silent=True, l1_reg=0)[0]
        return values, abs(explainer.expected_value + values.sum() - predict_of(row)(np.ones((1, features)))[0])

    def permutation(row, evaluations):
        explainer = shap.PermutationExplainer(predict_of(row), np.zeros((1, features)), seed=0)
        found = explainer(np.ones((1, features)), max_evals=evaluations, silent=True)
        return found.values[0], abs(
            found.base_values[0] + found.values[0].sum() - predict_of(row)(np.ones((1, features)))[0]
        )

    auto = 2 * features + 2048
    for samples in (auto, 640 // 16 + 2 * features):
        yield (
            f"shap.KernelExplainer, nsamples {samples}",
            lambda row, n=samples: kernel(row, n),
            samples * len(background),
        )
    for evaluations in (10 * (2 * features + 1), 2 * features + 1):
        yield (
            f"shap.PermutationExplainer, max_evals {evaluations}",
            lambda row, n=evaluations: permutation(row, n),
            evaluations * len(background),
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", type=Path)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--permutations", type=int, default=128)
    parser.add_argument("--architecture", default="mlp")
    warnings.filterwarnings("ignore")
    measure(parser.parse_args())
