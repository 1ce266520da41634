"""The registry on a real PostgreSQL: versions, stages, approvals, lineage and deployments."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fasttrack.errors import ConflictError, InvalidRequestError, NotFoundError
from fasttrack.registry import keys, package
from fasttrack.registry.records import Lineage
from fasttrack.registry.store import Registry
from tests.integration.registry_database import digest

LINEAGE = Lineage(
    lake_versions={"orders": 12},
    kafka_offsets={"orders": {"0": 100, "1": 2**40}},
    code_commit="0123abc",
    seed=7,
    search_space={"width": [16, 64], "rate": {"low": 1e-4, "high": 0.1}},
)


def test_versions_count_up_by_name(registry: Registry) -> None:
    for number in (1, 2, 3):
        made = registry.register_model("counting", f"/packages/{number}", digest=digest(number))
        assert (made.version, made.stage, made.uri) == (number, "candidate", f"/packages/{number}")
    assert registry.register_model("counting-too", "/packages/1", digest=digest(1)).version == 1
    assert [version.version for version in registry.list("counting")] == [3, 2, 1]
    assert {"counting", "counting-too"} <= {version.name for version in registry.list()}


def test_same_package_twice_is_the_same_version(registry: Registry) -> None:
    first = registry.register_model("twice", "/a", metadata={"run": "one"}, digest=digest(1), metrics={"auc": 0.75})
    again = registry.register_model("twice", "/b", metadata={"run": "two"}, digest=digest(1))
    assert again == first
    assert registry.register_model("twice", "/a", 1, digest=digest(1)) == first
    assert registry.register_model("twice", "/c", digest=digest(2)).version == 2


def test_explicit_version(registry: Registry) -> None:
    assert registry.register_model("explicit", "/a", 10, digest=digest(1)).version == 10
    assert registry.register_model("explicit", "/b", digest=digest(2)).version == 11
    assert registry.register_model("explicit", "/c", 3, digest=digest(3)).version == 3
    assert registry.register_model("explicit", "/d", digest=digest(4)).version == 12
    with pytest.raises(ConflictError, match="version 10 is another package"):
        registry.register_model("explicit", "/e", 10, digest=digest(5))
    with pytest.raises(ConflictError, match="is version 10 already"):
        registry.register_model("explicit", "/a", 99, digest=digest(1))
    assert [version.version for version in registry.list("explicit")] == [12, 11, 10, 3]


def test_digest_is_read_from_the_package(registry: Registry, tmp_path: Path) -> None:
    built = package.build(dict.fromkeys(package.LIMITS, b"{}"), keys.new_key_pair()[0])
    path = package.write(built, tmp_path)
    assert registry.register_model("from-folder", str(path)).digest == built.digest
    with pytest.raises(NotFoundError, match="no model package"):
        registry.register_model("from-folder", str(tmp_path / "gone"))


def test_what_was_registered_is_what_is_read(registry: Registry) -> None:
    metadata = {"ünï": ["x", None, True, 1.5, 2**60], "nul": "a\x00b", "nan": math.nan}
    made = registry.register_model("kept", "/a", metadata=metadata, digest=digest(1), metrics={"auc": 0.1 + 0.2})
    read = registry.get("kept", 1)
    assert read == made
    assert read.metadata == {"ünï": ["x", None, True, 1.5, 2**60], "nul": "a\ufffdb", "nan": None}
    assert read.metrics == {"auc": 0.1 + 0.2}
    assert read.created_at.utcoffset() == datetime.now(UTC).utcoffset()


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "x\x00y"},
        {"name": "n" * 201},
        {"uri": "  "},
        {"digest": "sha256:123"},
        {"digest": "md5:" + "0" * 64},
        {"version": 0},
        {"version": -1},
        {"version": 2**31},
        {"who": ""},
    ],
)
def test_malformed_registration_is_refused(registry: Registry, change: dict[str, Any]) -> None:
    before = registry.list()
    with pytest.raises(InvalidRequestError) as caught:
        registry.register_model(**{"name": "malformed", "uri": "/a", "digest": digest(1), **change})
    assert caught.value.fix
    assert registry.list() == before


def test_lineage(registry: Registry) -> None:
    registry.register_model("lineage", "/a", digest=digest(1), lineage=LINEAGE)
    child = dataclasses.replace(LINEAGE, parent_version=1)
    registry.register_model("lineage", "/b", digest=digest(2), lineage=child)
    assert registry.lineage("lineage", 1) == LINEAGE
    assert registry.lineage("lineage", 2) == child
    registry.register_model("lineage", "/c", digest=digest(3))
    with pytest.raises(NotFoundError, match="without lineage"):
        registry.lineage("lineage", 3)


def test_unknown_parent_registers_nothing(registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="no version 9"):
        registry.register_model(
            "orphan", "/a", digest=digest(1), lineage=dataclasses.replace(LINEAGE, parent_version=9)
        )
    assert registry.list("orphan") == ()


def test_unknown_versions_are_named_with_what_there_is(registry: Registry) -> None:
    registry.register_model("known", "/a", digest=digest(1))
    with pytest.raises(NotFoundError, match=r"known: the model has no version 5\. Known versions: 1\."):
        registry.get("known", 5)
    with pytest.raises(NotFoundError, match="no version in stage 'champion'"):
        registry.get("known")
    with pytest.raises(NotFoundError, match="Register one first"):
        registry.get("nobody", 1)
    for call in (registry.approvals, registry.lineage):
        with pytest.raises(NotFoundError):
            call("known", 5)


def test_new_champion_archives_the_old_one_and_history_is_kept(registry: Registry) -> None:
    for number in (1, 2):
        registry.register_model("stages", f"/{number}", digest=digest(number))
    registry.set_stage("stages", 1, "champion", "ann", "best so far")
    registry.set_stage("stages", 2, "challenger", "ann", "try it")
    assert registry.get("stages", "challenger").version == 2
    registry.set_stage("stages", 2, "champion", "bob", "won the A/B test")
    assert registry.get("stages").version == 2
    assert registry.get("stages", 1).stage == "archived"
    moves = [(c.version, c.previous_stage, c.stage, c.who, c.why) for c in registry.stage_changes("stages")]
    assert moves == [
        (1, None, "candidate", "pipeline", "registered"),
        (2, None, "candidate", "pipeline", "registered"),
        (1, "candidate", "champion", "ann", "best so far"),
        (2, "candidate", "challenger", "ann", "try it"),
        (1, "champion", "archived", "bob", "replaced by version 2"),
        (2, "challenger", "champion", "bob", "won the A/B test"),
    ]
    assert [c.stage for c in registry.stage_changes("stages", 1)] == ["candidate", "champion", "archived"]
    assert [(a.who, a.why, a.decision) for a in registry.approvals("stages", 2)] == [
        ("bob", "won the A/B test", "approved")
    ]
    # Going back to the old champion is the same call.
    registry.set_stage("stages", 1, "champion", "ann", "version 2 was worse")
    assert registry.get("stages").version == 1


def test_setting_the_same_stage_again_changes_nothing(registry: Registry) -> None:
    registry.register_model("same", "/1", digest=digest(1))
    first = registry.set_stage("same", 1, "champion", "ann", "good")
    history = registry.stage_changes("same")
    assert registry.set_stage("same", 1, "champion", "ann", "good") == first
    assert registry.stage_changes("same") == history


def test_rejected_version_needs_an_approval_to_become_champion(registry: Registry) -> None:
    registry.register_model("judged", "/1", digest=digest(1))
    registry.approve("judged", 1, who="gate", why="AUC too low", decision="rejected")
    with pytest.raises(ConflictError, match="rejected by gate: AUC too low"):
        registry.set_stage("judged", 1, "champion", "ann", "I like it")
    assert registry.get("judged", 1).stage == "candidate"
    registry.approve("judged", 1, who="ann", why="the test data was wrong")
    registry.set_stage("judged", 1, "champion", "ann", "goes live")
    assert [a.decision for a in registry.approvals("judged", 1)] == ["rejected", "approved", "approved"]


@pytest.mark.parametrize(
    ("stage", "who", "why"),
    [("champion", "", "w"), ("champion", "a", " "), ("best", "a", "w"), ("champion", "a\x00", "w")],
)
def test_stage_without_who_why_or_meaning_is_refused(registry: Registry, stage: Any, who: str, why: str) -> None:
    registry.register_model("refused", "/1", digest=digest(1))
    with pytest.raises(InvalidRequestError):
        registry.set_stage("refused", 1, stage, who, why)
    with pytest.raises(InvalidRequestError):
        registry.approve("refused", 1, who="a", why="w", decision="perhaps")  # type: ignore[arg-type]
    assert registry.get("refused", 1).stage == "candidate"
    assert registry.approvals("refused", 1) == ()


def deploy(registry: Registry, usecase: str, version: int) -> Any:
    return registry.deploy(
        usecase,
        version,
        signature={"inputs": [version]},
        usecase_document={"name": usecase},
        transformer_url=f"http://127.0.0.1:{version}",
        predictor_url=f"http://127.0.0.1:{version + 1}",
        explainer_url=f"http://127.0.0.1:{version + 2}",
    )


def test_deployment_is_replaced_and_removed(registry: Registry) -> None:
    for number in (1, 2):
        registry.register_model("served", f"/{number}", digest=digest(number))
    assert registry.deployment("served") is None
    first = deploy(registry, "served", 1)
    assert registry.deployment("served") == first
    assert (first.digest, first.uri, first.signature) == (digest(1), "/1", {"inputs": [1]})
    second = deploy(registry, "served", 2)
    assert second.digest == digest(2)
    assert second.updated_at > first.updated_at
    assert [d for d in registry.deployments() if d.usecase == "served"] == [second]
    assert registry.undeploy("served")
    assert not registry.undeploy("served")
    assert registry.deployment("served") is None


def test_deploying_what_is_not_registered_is_refused(registry: Registry) -> None:
    with pytest.raises(NotFoundError, match="no version 1"):
        deploy(registry, "unregistered", 1)
    assert registry.deployment("unregistered") is None
