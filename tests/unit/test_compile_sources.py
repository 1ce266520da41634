"""What reads sources on a cluster, and what drains all the time: right objects, and refusals that say why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fasttrack.errors import ConfigurationError
from fasttrack.ingest.sources.slotname import slot_name
from fasttrack.kubeflow.objects import Options, documents
from fasttrack.usecase import UseCase, parse

FLIGHTS = yaml.safe_load((Path(__file__).parents[2] / "examples/flights/usecase.yaml").read_text())
FILES = {"kind": "files", "path": "s3://bucket/weather", "format": "csv"}
REST = {"kind": "rest", "url": "https://api.example.com/v1", "identity": ["id"]}
POSTGRES = {"kind": "postgres", "connection_env": "SHOP", "table": "t", "cursor": "at", "keys": ["id"]}
REPLICATION = {"kind": "postgres_replication", "connection_env": "SHOP", "table": "t", "keys": ["id"]}
CONNECTOR = {**REPLICATION, "connector": True}
WEBHOOK = {"kind": "webhook", "secret_env": "HOOK"}
STREAM = {"kind": "stream", "connection_env": "OTHER", "topic": "weather"}
Object = dict[str, Any]


def usecase(sources: dict[str, Object], **stream: Any) -> UseCase:
    """Flights with these sources, of the stream `weather` where they name none; `stream` changes that one."""
    made = {**FLIGHTS, "sources": {name: {"stream": "weather", **source} for name, source in sources.items()}}
    made["streams"] = {**FLIGHTS["streams"], "weather": {**FLIGHTS["streams"]["weather"], **stream}}
    return parse(yaml.safe_dump(made))


def compiled(case: UseCase, file: str = "sources.yaml", **options: Any) -> list[Object]:
    return documents(case, Options(**options), "", "fasttrack").get(file, [])


def config(source: Object, **stream: Any) -> dict[str, str]:
    (made,) = compiled(usecase({"debezium": {**CONNECTOR, **source}}, **stream))
    found: dict[str, str] = made["spec"]["config"]
    return found


REFUSED = [
    ({"it": {**FILES, "path": "/home/me/weather"}}, "sources.it.path", "a pod doesn't see the folder"),
    ({"it": {**FILES, "path": "weather"}}, "sources.it.path", "a pod doesn't see the folder"),
    ({"it": {**FILES, "path": "/var/lib/fasttracker/in"}}, "sources.it.path", "a pod doesn't see the folder"),
    ({"it": {**CONNECTOR, "fields": {"wind_speed": "_lsn"}}}, "sources.it.fields.wind_speed", "can't give '_lsn'"),
    ({"it": {**CONNECTOR, "fields": {"wind_speed": "_change_id"}}}, "sources.it.fields.", "can't give '_change_id'"),
    ({"it": {**CONNECTOR, "fields": {"wind_speed": "a.b"}}}, "sources.it.fields.wind_speed", "can't give 'a.b'"),
    ({"it": {**CONNECTOR, "fields": {"wind_speed": "a,b"}}}, "sources.it.fields.wind_speed", "can't give 'a,b'"),
    ({"it": {**CONNECTOR, "fields": {"wind_speed": "a:b"}}}, "sources.it.fields.wind_speed", "can't give 'a:b'"),
    ({"it": {**CONNECTOR, "fields": {"wind_speed": "humid", "temperature": "humid"}}}, "sources.it.fields.", "once"),
    ({"it": {**CONNECTOR, "constants": {"wind_speed": 3}}}, "sources.it.constants.wind_speed", "only give texts"),
    ({"it": {**CONNECTOR, "table": "t(1)"}}, "sources.it.table", "would not find 't(1)'"),
    ({"it": {**CONNECTOR, "keys": ["a,b"]}}, "sources.it.keys", "would not find 'a,b'"),
    *(
        ({"it": CONNECTOR, "other": other}, "sources.it.connector", "'other' writes to stream 'weather', too")
        for other in (FILES, REST, POSTGRES, REPLICATION, STREAM, WEBHOOK)
    ),
]


@pytest.mark.parametrize(("sources", "where", "reason"), REFUSED)
def test_what_can_not_be_read_on_a_cluster_is_refused_with_the_reason(
    sources: dict[str, Object], where: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError) as told:
        compiled(usecase(sources))
    assert str(told.value.where).startswith(where)
    assert reason in told.value.what
    assert told.value.fix
    # And only there: without the cluster's part, the use case is as good as any.
    assert compiled(usecase(sources), leave_out=("sources",)) == []


def test_a_connector_of_an_avro_stream_is_refused_and_an_ingester_is_not() -> None:
    with pytest.raises(ConfigurationError, match="no times of microseconds"):
        compiled(usecase({"it": CONNECTOR}, encoding="avro"))
    kinds = [each["kind"] for each in compiled(usecase({"it": REPLICATION}, encoding="avro"))]
    assert kinds == ["Deployment", "PodMonitor"]


def test_two_connectors_may_share_a_stream_and_other_sources_may_feed_others() -> None:
    sources = {"one": CONNECTOR, "two": {**CONNECTOR, "table": "u"}, "hook": {**WEBHOOK, "stream": "landed"}}
    assert [each["kind"] for each in compiled(usecase(sources))] == ["KafkaConnector", "KafkaConnector"]


@pytest.mark.parametrize(
    ("source", "variables"),
    [
        (FILES, []),
        (REST, []),
        ({**REST, "token_env": "TOKEN"}, ["TOKEN"]),
        (POSTGRES, ["SHOP"]),
        (REPLICATION, ["SHOP"]),
        (STREAM, ["OTHER"]),
    ],
)
def test_a_pod_gets_the_secrets_that_its_source_names_and_no_others(source: Object, variables: list[str]) -> None:
    deployment, _ = compiled(usecase({"it": source, "other": {**REST, "token_env": "NOT_ITS"}}))[::2]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    named = [each for each in container["env"] if "valueFrom" in each]
    wanted = [each for each in named if not each["valueFrom"]["secretKeyRef"].get("optional")]
    assert [each["name"] for each in wanted] == variables
    assert all(each["name"].rpartition("_")[0] in variables for each in named if each not in wanted)
    for each in named:
        reference = {**each["valueFrom"]["secretKeyRef"], "optional": None}
        assert reference == {"name": "fasttrack-secrets", "key": each["name"], "optional": None}
    assert container["envFrom"] == [{"configMapRef": {"name": "fasttrack-settings"}}]


def test_a_folder_of_the_claim_is_mounted_and_can_not_be_written() -> None:
    deployment, _ = compiled(usecase({"it": {**FILES, "path": "/var/lib/fasttrack/in"}}))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"name": "data", "mountPath": "/var/lib/fasttrack", "readOnly": True} in container["volumeMounts"]


def test_a_deployment_has_its_own_pods_and_one_at_a_time() -> None:
    case = usecase({"one": FILES, "two": REST, "three": STREAM})
    found = [each for each in [*compiled(case), *compiled(case, "drain.yaml", continuous_drain=True)]
             if each["kind"] == "Deployment"]  # fmt: skip
    assert len(found) == 4
    for each in found:
        chosen = each["spec"]["selector"]["matchLabels"].items()
        theirs = [other for other in found if chosen <= other["spec"]["template"]["metadata"]["labels"].items()]
        assert theirs == [each]
        assert (each["spec"]["replicas"], each["spec"]["strategy"]) == (1, {"type": "Recreate"})


def test_another_use_case_of_the_same_name_makes_new_pods() -> None:
    def digests(case: UseCase) -> set[str]:
        both = [*compiled(case), *compiled(case, "drain.yaml", continuous_drain=True)]
        templates = [each["spec"]["template"]["metadata"] for each in both if each["kind"] == "Deployment"]
        assert len(templates) == 2
        return {each["annotations"]["fasttrack.ai/usecase-digest"] for each in templates}

    before, after = digests(usecase({"it": FILES})), digests(usecase({"it": FILES}, max_bytes=4096))
    assert len(before) == len(after) == 1
    assert before != after
    assert before == digests(usecase({"it": FILES}))


def test_webhooks_alone_need_nothing_but_the_gateway() -> None:
    assert compiled(usecase({"hook": WEBHOOK})) == []
    kafka = [each["metadata"]["name"] for each in compiled(usecase({"hook": WEBHOOK}), "kafka.yaml")]
    assert kafka == [each["metadata"]["name"] for each in compiled(usecase({}), "kafka.yaml")]


def test_monitors_are_left_out_with_monitoring() -> None:
    case = usecase({"it": FILES})
    for file in ("sources.yaml", "drain.yaml"):
        options = {"continuous_drain": True, "leave_out": ("monitoring",)}
        assert [each["kind"] for each in compiled(case, file, **options)] == ["Deployment"]
        monitored = compiled(case, file, continuous_drain=True)
        selector = monitored[1]["spec"]["selector"]["matchLabels"].items()
        assert selector <= monitored[0]["spec"]["template"]["metadata"]["labels"].items()


def test_a_drain_that_never_ends_is_only_made_on_request() -> None:
    assert compiled(usecase({}), "drain.yaml") == []
    deployment, _ = compiled(usecase({}), "drain.yaml", continuous_drain=True)
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"][:1] == ["drain"]
    assert container["args"][container["args"].index("--until") + 1] == "forever"
    assert {"name": "data", "mountPath": "/var/lib/fasttrack"} in container["volumeMounts"]
    # The workers have a minute to commit what they hold, and their parent ends after them.
    assert pod["terminationGracePeriodSeconds"] > 60


def test_a_connector_writes_the_newest_contract_without_registering_or_comparing_one() -> None:
    made = config({})
    assert made["value.converter"] == "io.confluent.connect.json.JsonSchemaConverter"
    settings = {
        "auto.register.schemas": "false", "use.latest.version": "true", "latest.compatibility.strict": "false",
    }  # fmt: skip
    for name, value in settings.items():
        assert made[f"value.converter.{name}"] == value
    # A heartbeat has none of the event's fields: ValueToKey would fail on it.
    assert not [name for name in made if "heartbeat" in name]


def test_a_connector_keeps_no_secret_and_reads_one_slot() -> None:
    made = config({})
    variables = {"hostname": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD", "dbname": "NAME"}
    for name, variable in variables.items():
        assert made[f"database.{name}"] == f"${{env:SHOP_{variable}}}"
    assert made["slot.name"] == made["publication.name"] == slot_name("flights", "debezium")
    assert config({"slot": "mine"})["slot.name"] == "mine"


def test_a_connector_gives_the_contract_s_fields_to_the_stream_s_topic_under_its_key() -> None:
    made = config({"fields": {"wind_speed": "wind"}, "constants": {"origin": "JFK"}})
    contract = FLIGHTS["streams"]["weather"]
    assert set(made["transforms.pick.include"].split(",")) == set(contract["fields"]) - {"wind_speed", "origin"} | {
        "wind"
    }
    assert made["transforms.pick.renames"] == "wind:wind_speed"
    assert (made["transforms.constant0.static.field"], made["transforms.constant0.static.value"]) == ("origin", "JFK")
    assert made["transforms.key.fields"] == made["transforms.bare.field"] == contract["key"]
    assert made["transforms.route.replacement"] == "flights.weather"
    steps = made["transforms"].split(",")
    # The key is taken from the event as it will be: renamed, and with its constants.
    assert steps.index("key") > max(steps.index("pick"), steps.index("constant0"))
    assert all(f"transforms.{step}.type" in made for step in steps)


CHANGES = st.lists(st.sampled_from(["insert", "update", "delete"]), min_size=1, max_size=3, unique=True)


@given(changes=CHANGES)
def test_a_connector_skips_just_the_changes_that_become_no_events(changes: list[str]) -> None:
    made = config({"changes": changes})
    skipped = set(made["skipped.operations"].split(",")) - {"t"}
    assert skipped == {change[0].replace("i", "c") for change in {"insert", "update", "delete"} - set(changes)}
    assert (made["transforms.unwrap.delete.tombstone.handling.mode"] == "rewrite") == ("delete" in changes)


@given(first=st.text(min_size=1, max_size=80), second=st.text(min_size=1, max_size=80))
def test_slots_have_names_that_postgres_takes_and_each_source_its_own(first: str, second: str) -> None:
    one, two = slot_name("flights", first), slot_name("flights", second)
    assert len(one) <= 63 and set(one) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")
    assert (one == two) == (first == second)
