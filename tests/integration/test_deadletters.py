"""Dead letters on a real broker: searched, shown, and sent again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fasttrack.cli.main import main
from fasttrack.errors import ConflictError
from fasttrack.ingest.broker import Broker
from fasttrack.ingest.deadletters import Wanted
from fasttrack.ingest.drain import drain
from fasttrack.ingest.fix import Fix
from fasttrack.ingest.listing import search
from fasttrack.ingest.outbox import Outbox, Outgoing, opened
from fasttrack.ingest.reconcile import Replayed, reconcile
from fasttrack.ingest.resend import resend
from fasttrack.ingest.schemas import register
from fasttrack.local.platform import Platform
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, parse
from tests.integration.deadletter_shop import ROOT, fix_file, landed, new_shop, orders, send, sent_again
from tests.unit.ingest_usecase import YAML, event, message


@pytest.fixture
def settings(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # Workers are found wherever the tests are started.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return replace(platform.settings(), lake=str(tmp_path / "lake"))


@pytest.fixture
def shop(settings: Settings) -> UseCase:
    return new_shop(settings)


@pytest.fixture
def fasttrack(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., Any]:
    """What `fasttrack deadletters` prints, as JSON if it was asked for that."""
    for name, value in {**settings.to_environment(), "COLUMNS": "250"}.items():
        monkeypatch.setenv(name, value)

    def call(*words: str) -> Any:
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            monkeypatch.setattr(sys, "argv", ["fasttrack", "deadletters", *words])
            main()
        said = capsysbinary.readouterr()
        assert ended.value.code == 0, said.err.decode()
        return json.loads(said.out) if "--json" in words else said.out

    return call


def test_a_contract_that_was_too_tight_is_relaxed(
    settings: Settings, shop: UseCase, fasttrack: Callable[..., Any], tmp_path: Path
) -> None:
    text = YAML.format(name=shop.name, partitions=3, source="tests.unit.ingest_usecase:events")
    tight = parse(text.replace("minimum: 1, maximum: 99", "minimum: 1, maximum: 9"))
    (tmp_path / "usecase.yaml").write_text(text)
    schema = register(settings, tight, "placed")
    events = [event(n, pieces=n) for n in range(1, 15)]
    everything = [(message(one, schema), one["order_id"].encode()) for one in events]
    send(settings, tight, [*everything, (b"\xff\xfe[bold]", b"nobody")])
    assert drain(tight, settings, workers=1).streams["placed"].dead_letters == 6
    register(settings, shop, "placed")

    case = ("-u", str(tmp_path / "usecase.yaml"))
    found = fasttrack("list", *case, "--json")
    counts = {row["reason"]: (row["count"], row["replayed"]) for row in found["groups"]}
    assert counts == {"out of range": (5, 0), "no schema header": (1, 0)}
    one = fasttrack("list", *case, "--json", "--contains", '"placed-12"')["letters"]
    assert len(one) == 1 and one[0]["detail"].startswith("pieces is 12")
    place = "{topic}/{partition}/{offset}".format(**one[0])
    shown = fasttrack("show", place, *case, "--json")
    assert shown["accepted_now"] and shown["contract_version"] != shown["contract_version_now"]
    assert fasttrack("show", place, *case, "--raw") == everything[11][0]
    (odd,) = fasttrack("list", *case, "--reason", "no schema header", "--json")["letters"]
    told = fasttrack("show", "placed:{partition}:{offset}".format(**odd), *case).decode()
    assert "ff fe 5b 62 6f 6c 64 5d" in told and "refused_now: no schema header" in told

    dry = fasttrack("replay", *case, "--dry-run", "--json")
    assert (dry["sent"], dry["dry_run"], len(sent_again(settings, shop))) == (5, True, 0)
    only = fasttrack("replay", *case, "--contains", '"placed-12"', "--json")
    assert (only["matched"], only["sent"]) == (1, 1)
    rest = fasttrack("replay", *case).decode()
    assert "4 sent (0 mended), 1 replayed before, 1 still refused" in rest
    assert reconcile(shop, settings).replays["placed"] == Replayed(sent=5, pending=5)
    drain(shop, settings, workers=1)
    assert landed(settings, shop) == sorted(one["event_id"] for one in events)
    proof = reconcile(shop, settings)
    assert proof.balanced and proof.replays["placed"] == Replayed(sent=5, landed=5)
    assert {row["reason"]: row["replayed"] for row in search(shop, settings, Wanted()).groups} == {
        "out of range": 5,
        "no schema header": 0,
    }


def test_of_two_replays_at_once_one_is_refused(settings: Settings, shop: UseCase, tmp_path: Path) -> None:
    send(settings, shop, orders(settings, shop, broken=2))
    drain(shop, settings, workers=1)
    broker = Broker(settings.kafka)
    topic = broker.topics([shop.topic("placed")])[shop.topic("placed")]
    one = Outgoing("placed", topic.name, topic.id, 0, 0, "", 0, None, b"o1", b"one", True, None)
    with opened(shop, settings, broker, {"placed": topic}) as first:
        with pytest.raises(ConflictError, match="another replay"):
            resend(shop, settings, Wanted(), fix=Fix(fix_file(tmp_path)))
        # And without a lock, as on another machine whose file system has none: whoever commits first.
        second = Outbox(shop, settings, broker, {"placed": topic})
        first.send([one])
        with pytest.raises(ConflictError, match="another replay"):
            second.send([replace(one, offset=1)])
    assert set(sent_again(settings, shop)) == {one.mark}
