"""The statistics of a raw table are the same by pieces as of the whole."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from fasttrack.errors import DataQualityError
from fasttrack.ingest.validate import validate
from fasttrack.lake import tables
from fasttrack.lake.append import Ledger
from fasttrack.lake.schemas import DEAD_LETTERS, raw_schema
from fasttrack.lake.tables import dead_letters_path, ensure, raw_path
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase
from tests.unit.ingest_usecase import usecase

_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "rating": st.none() | st.floats(-5, 5),
            "pieces": st.integers(1, 99),
            "shipped_at": st.none() | st.integers(0, 10**9).map(lambda s: _EPOCH + timedelta(seconds=s)),
            "city": st.none() | st.sampled_from(["Paris", "Łódź"]),
        }
    ),
    min_size=1,
    max_size=6,
)
#: What each row has besides: a contract's fields that may not be null.
GOOD = {"event_id": "placed-1", "order_id": "o1", "placed_at": _EPOCH, "amount": 1.0, "gift": True}


def tolerant() -> UseCase:
    shop = usecase("shop")
    shop = shop.model_copy(update={"streams": {"placed": shop.streams["placed"]}})
    return shop.model_copy(update={"quality": shop.quality.model_copy(update={"max_dead_letters": 1.0})})


def append(path: str, schema: pa.Schema, rows: list[dict[str, object]]) -> None:
    ensure(path, schema)
    ledger = Ledger(path, "test")
    ledger.append(pa.Table.from_pylist(rows, schema), (ledger.mark or 0) + 1)


@budget(max_examples=25, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4), st.lists(st.sampled_from(["not JSON", "wrong type"]), max_size=5))
def test_statistics_are_those_of_all_rows(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[dict[str, object]]], reasons: list[str]
) -> None:
    settings, shop = Settings(lake=str(tmp_path_factory.mktemp("lake"))), tolerant()
    for rows in files:
        append(raw_path(settings, shop, "placed"), raw_schema(shop.streams["placed"]), [GOOD | row for row in rows])
    for reason in reasons:
        append(dead_letters_path(settings, shop), DEAD_LETTERS, [{"stream": "placed", "reason": reason}])
        append(dead_letters_path(settings, shop), DEAD_LETTERS, [{"stream": "paid", "reason": "other"}])
    found = validate(shop, settings).streams["placed"]

    every = [row for rows in files for row in rows]
    assert (found.rows, found.dead_letters, found.reasons) == (len(every), len(reasons), Counter(reasons))
    assert found.dead_share == len(reasons) / (len(every) + len(reasons))
    for name in every[0]:
        values = [row[name] for row in every if row[name] is not None]
        assert found.fields[name].missing == pytest.approx(1 - len(values) / len(every))
        if name == "city" or not values:
            assert (found.fields[name].minimum, found.fields[name].maximum) == (None, None)
        else:
            bounds = [min(values), max(values)]  # type: ignore[type-var]
            told = [b.isoformat() if isinstance(b, datetime) else b for b in bounds]
            assert [found.fields[name].minimum, found.fields[name].maximum] == told


def test_a_table_comes_in_pieces_and_the_worst_value_is_found_in_any(tmp_path: Path) -> None:
    settings, shop = Settings(lake=str(tmp_path)), tolerant()
    path = raw_path(settings, shop, "placed")
    for pieces in (3, 120, 5):
        append(path, raw_schema(shop.streams["placed"]), [GOOD | {"pieces": pieces}] * 4)
    assert [batch.num_rows for batch in tables.batches(path, ["pieces"])] == [4, 4, 4]
    with pytest.raises(DataQualityError, match="pieces"):
        validate(shop, settings)
