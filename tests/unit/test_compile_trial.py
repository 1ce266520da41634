"""What a trial of the Experiment runs: its flags, its metrics, and its errors."""

from __future__ import annotations

import importlib.util
import json
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fasttrack.tuning.space import select
from fasttrack.usecase import UseCase, load

ROOT = Path(__file__).parents[2]
FLIGHTS = ROOT / "examples/flights/usecase.yaml"
EXPERIMENT = ROOT / "tests/golden/flights/experiment.yaml"


def entry() -> ModuleType:
    spec = importlib.util.spec_from_file_location("katib_trial", ROOT / "katib/trial.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flags(usecase: UseCase, architecture: str) -> list[str]:
    """The compiled flags, filled in as Katib does it: with the first value of each range."""
    spec = yaml.safe_load(EXPERIMENT.read_text())["spec"]
    values = {p["name"]: p["feasibleSpace"].get("list", [p["feasibleSpace"].get("min")])[0] for p in spec["parameters"]}
    values["architecture"] = architecture
    found = []
    for flag in spec["trialTemplate"]["trialSpec"]["spec"]["trainer"]["args"]:
        for name, value in values.items():
            flag = flag.replace(f"${{trialParameters.{name}}}", value)
        found.append(flag)
    return found


def test_the_compiled_flags_give_every_candidate_its_parameters() -> None:
    usecase = load(FLIGHTS)
    for candidate in usecase.models:
        options = entry()._parse(flags(usecase, candidate.architecture))
        architecture, parameters = select(usecase, dict(options.set))
        assert (architecture, set(parameters)) == (candidate.architecture, set(candidate.search))


def table(usecase: UseCase, folder: Path, rows: int = 600) -> Path:
    """A feature table whose label follows the first column."""
    random = np.random.default_rng(0)
    start, end = usecase.split.train_until.timestamp() - 30 * 86400, usecase.split.test_until.timestamp()
    times = pa.array((np.linspace(start, end, rows, endpoint=False) * 1e6).astype(np.int64), pa.timestamp("us", "UTC"))
    found: dict[str, pa.Array] = {}
    for column in usecase.columns():
        if column.role == "numeric":
            found[column.name] = pa.array(random.normal(size=rows))
        elif column.role == "category":
            found[column.name] = pa.array(random.choice(["a", "b"], size=rows))
        else:
            width = column.length * len(column.channels)
            found[column.name] = pa.array(random.normal(size=(rows, width)).tolist(), pa.list_(pa.float64()))
            found[f"{column.name}_length"] = pa.array(np.full(rows, column.length, dtype=np.int32))
    first = next(column.name for column in usecase.columns() if column.role == "numeric")
    found["_label"] = pa.array(found[first].to_numpy() * 30 + 10)
    found |= {
        "flight_id": pa.array([str(n) for n in range(rows)]),
        "_event_id": pa.array([str(n) for n in range(rows)]),
    }
    found |= {"_prediction_time": times, "_label_time": times}
    folder.mkdir(parents=True)
    pq.write_table(pa.table(found), folder / "part-0.parquet")
    return folder


def test_a_trial_tells_the_collector_texts_epoch_by_epoch(tmp_path: Path) -> None:
    usecase = load(FLIGHTS)
    metrics = tmp_path / "log" / "metrics.json"
    given = [
        "--usecase",
        str(FLIGHTS),
        "--features",
        str(table(usecase, tmp_path / "table")),
        "--metrics",
        str(metrics),
    ]
    sets = [flag for flag in flags(usecase, "mlp") if flag.startswith("--set")]
    assert entry().main([*given, *sets]) == 0
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line.get("step") for line in lines] == [str(epoch + 1) for epoch in range(usecase.tuning.epochs)] + [None]
    for line in lines:
        assert isinstance(line[usecase.tuning.metric], str)
        assert 0 <= float(line[usecase.tuning.metric]) <= 1
    # Katib's collector misreads times that are numbers: within a second it would lose their order.
    times = [datetime.fromisoformat(line["timestamp"]) for line in lines]
    assert times == sorted(times) and all(time.utcoffset() == timedelta(0) for time in times)
    assert float(lines[-1][usecase.tuning.metric]) == max(float(line[usecase.tuning.metric]) for line in lines[:-1])


def test_a_value_out_of_range_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--usecase", str(FLIGHTS), "--features", str(tmp_path), "--metrics", str(tmp_path / "m.json")]
    code = entry().main([*given, "--set=architecture=mlp", "--set=mlp_learning_rate=9", "--set=mlp_hidden=64"])
    assert code == 2
    assert "mlp_l" in capsys.readouterr().err


def test_without_a_table_in_the_lake_there_is_nothing_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FASTTRACK_LAKE", str(tmp_path))
    monkeypatch.setenv("FASTTRACK_USECASE", FLIGHTS.read_text())
    assert entry().main(["--metrics", str(tmp_path / "m.json")]) == 10
    assert "there is no feature table" in capsys.readouterr().err


def test_without_a_use_case_it_says_how_to_give_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FASTTRACK_USECASE", raising=False)
    assert entry().main(["--metrics", str(tmp_path / "m.json")]) == 2
    assert "FASTTRACK_USECASE" in capsys.readouterr().err
