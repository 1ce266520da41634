"""The three servers as processes over a signed package, asked by the official clients, unmodified."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from fasttrack import usecase as usecases
from fasttrack.features.online import OnlineStore
from fasttrack.models.inference import Predictor
from fasttrack.settings import Settings
from tests.integration import serving_online
from tests.integration import serving_package as made
from tests.integration.gateway_redis import redis_server
from tests.integration.serving_processes import NAME, Running, post, refused, started, wait_ready

ROWS = 3
OUTPUTS = ("probability", "value", "lower", "upper")


@dataclass
class Chain:
    built: made.Built
    settings: dict[str, str]
    predictor: Running
    transformer: Running
    whole: Running
    explainer: Running
    oracle: Predictor
    store: OnlineStore

    def infer(self, server: Running, document, headers=None):
        return post(f"{server.url}/v2/models/{NAME}/infer", document, headers)

    def expected(self, rows):
        return self.oracle.predict_rows(rows)

    def tensors(self, rows):
        """Name, datatype and array of each encoded input."""
        datatypes = {"numeric": "FP32", "categorical": "INT64", "sequence": "FP32", "length": "INT64"}
        batch = self.oracle.encoder.encode_rows(rows)
        return [(name, datatypes[name], np.ascontiguousarray(array)) for name, array in batch.tensors().items()]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    built = made.build(folder / "package")
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(folder))
        online = Settings(lake=str(folder / "lake"), redis=redis.url)
        settings = {**online.to_environment(), "FASTTRACK_VERIFY_KEY": str(built.verify_key)}
        usecase = ("--usecase", str(made.USECASE_FILE))
        predictor = stack.enter_context(started("predictor", built.path, settings, folder, "--model_version", "7"))
        hop = ("--predictor_host", f"127.0.0.1:{predictor.http}")
        transformer = stack.enter_context(started("transformer", built.path, settings, folder, *usecase, *hop))
        alone = ("--predictor_protocol", "in-process", "--model_version", "7", "--usecase", str(wary(built, folder)))
        whole = stack.enter_context(started("transformer", built.path, settings, folder, *alone))
        explainer = stack.enter_context(started("explainer", built.path, settings, folder, *usecase))
        # While they start: what is read from the online store is read when it is asked for.
        serving_online.fill(built.usecase, online)
        for server in (predictor, transformer, whole, explainer):
            wait_ready(server)
        oracle = Predictor.from_files({path.name: path.read_bytes() for path in built.path.iterdir()})
        store = OnlineStore(built.usecase, online)
        yield Chain(built, settings, predictor, transformer, whole, explainer, oracle, store)


def wary(built, folder):
    """The use case, taking one ordinary row of fifty for an unusual one: there are few held-out rows."""
    document = usecases.dump(built.usecase)
    document["serving"]["novelty_level"] = 0.02
    path = folder / "usecase.yaml"
    path.write_text(usecases.canonical_text(usecases.UseCase.model_validate(document)))
    return path


@pytest.fixture(params=["transformer", "whole"])
def front(chain, request):
    """The transformer with a predictor beside it, and the one that has the model itself."""
    return getattr(chain, request.param)


@pytest.fixture(scope="module")
def rows(chain):
    return [made.raw_row(chain.built, index) for index in range(ROWS)]


def raw_inputs(rows):
    """Raw features as V2 JSON tensors; what is missing is null."""
    inputs = []
    for name, value in rows[0].items():
        values = [row[name] for row in rows]
        if isinstance(value, list):
            padded = [[[None] * 4] * (8 - len(events)) + events for events in values]
            inputs.append({"name": name, "datatype": "FP32", "shape": [len(rows), 8, 4], "data": padded})
        else:
            kind = "BYTES" if isinstance(value, str) else "FP64"
            inputs.append({"name": name, "datatype": kind, "shape": [len(rows)], "data": values})
    return inputs


def check(chain, rows, found):
    truth = chain.expected(rows)
    for name in OUTPUTS:
        np.testing.assert_allclose(np.asarray(found[name], np.float32), getattr(truth, name), rtol=1e-4, atol=1e-5)


def json_inputs(chain, rows):
    return [
        {"name": name, "datatype": kind, "shape": list(array.shape), "data": array.reshape(-1).tolist()}
        for name, kind, array in chain.tensors(rows)
    ]


def test_metadata_tells_inputs_outputs_and_version(chain):
    shown = json.loads(subprocess.check_output(["curl", "-sf", f"{chain.predictor.url}/v2/models/{NAME}"]))
    assert shown["versions"] == ["7"]
    assert [t["name"] for t in shown["inputs"]] == ["numeric", "categorical", "sequence", "length"]
    assert [t["name"] for t in shown["outputs"]] == list(OUTPUTS)
    versioned = subprocess.check_output(["curl", "-sf", f"{chain.predictor.url}/v2/models/{NAME}/versions/7"])
    assert json.loads(versioned) == shown
    raw = json.loads(subprocess.check_output(["curl", "-sf", f"{chain.transformer.url}/v2/models/{NAME}"]))
    names = [t["name"] for t in raw["inputs"]]
    assert names[0] == "flight_id"
    assert set(names[1:]) == {column.name for column in chain.built.usecase.columns()}


def test_curl_without_an_id_gets_an_answer_that_tells_its_origin(chain, rows):
    body = json.dumps({"inputs": json_inputs(chain, rows)})
    command = ["curl", "-sf", "-X", "POST", f"{chain.predictor.url}/v2/models/{NAME}/infer", "-d", "@-"]
    document = json.loads(subprocess.check_output(command, input=body.encode()))
    check(chain, rows, {output["name"]: output["data"] for output in document["outputs"]})
    assert document["model_version"] == "7"
    assert document["id"]
    assert document["parameters"] == {"model_version": "7", "digest": chain.built.digest}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("where", ["predictor", "transformer"])
def test_triton_http_client(chain, rows, where, binary):
    import tritonclient.http as triton

    server = getattr(chain, where)
    client = triton.InferenceServerClient(f"127.0.0.1:{server.http}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    inputs = []
    for name, kind, array in chain.tensors(rows) if where == "predictor" else triton_raw(rows):
        item = triton.InferInput(name, list(array.shape), kind)
        item.set_data_from_numpy(array, binary_data=binary)
        inputs.append(item)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]
    for wanted in (outputs, None):
        result = client.infer(NAME, inputs, request_id="abc", outputs=wanted)
        check(chain, rows, {name: result.as_numpy(name) for name in OUTPUTS})
        assert result.get_response()["id"] == "abc"
    client.close()


def triton_raw(rows):
    """Raw features as arrays: binary tensors hold no null, so only features that all rows have are sent."""
    tensors = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        if isinstance(values[0], list):
            full = np.full((len(rows), 8, 4), np.nan, np.float32)
            for row, events in enumerate(values):
                if events:
                    full[row, -len(events) :] = events
            if not np.isnan(full).any():
                tensors.append((name, "FP32", full))
        elif all(isinstance(value, str) for value in values):
            tensors.append((name, "BYTES", np.array(values, dtype=np.object_)))
        elif None not in values:
            tensors.append((name, "FP32", np.array(values, np.float32)))
    return tensors


@pytest.fixture(autouse=True, scope="module")
def full_rows(rows):
    """Binary clients can't send nulls: give the rows that they share no missing values."""
    for row in rows:
        for name, value in row.items():
            if value is None:
                row[name] = 12.5
            elif isinstance(value, list):
                row[name] = [[float(i), 1.0, 60.0, 2.0] for i in range(8)]


@pytest.mark.parametrize("where", ["predictor", "transformer"])
def test_triton_grpc_client(chain, rows, where):
    server = getattr(chain, where)
    tensors = chain.tensors(rows) if where == "predictor" else triton_raw(rows)
    entries = [{"name": n, "datatype": k, "shape": a.shape, "data": a.reshape(-1).tolist()} for n, k, a in tensors]
    # Its protocol classes and the KServe SDK's have the same names: one process can load only one of the two.
    script = Path(__file__).with_name("serving_triton_grpc.py")
    command = [sys.executable, str(script), f"127.0.0.1:{server.grpc}", NAME]
    found = json.loads(subprocess.check_output(command, input=json.dumps(entries).encode()))
    check(chain, rows, found["outputs"])
    assert found["id"] == "abc"
    assert found["digest"] == chain.built.digest
    assert found["metadata"] == list(OUTPUTS)
    assert "INVALID_ARGUMENT" in found["refusal"]


@pytest.mark.parametrize("binary", [True, False])
def test_kserve_rest_client(chain, rows, binary):
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    async def ask():
        client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30))
        inputs = []
        for name, kind, array in chain.tensors(rows):
            item = InferInput(name, list(array.shape), kind)
            item.set_data_from_numpy(array, binary_data=binary)
            inputs.append(item)
        assert await client.is_server_live(chain.predictor.url)
        assert await client.is_model_ready(chain.predictor.url, NAME)
        request = InferRequest(NAME, inputs, parameters={"binary_data_output": binary})
        answer = await client.infer(chain.predictor.url, request, model_name=NAME)
        await client.close()
        return answer

    answer = asyncio.run(ask())
    check(chain, rows, {output.name: output.as_numpy() for output in answer.outputs})


@pytest.mark.parametrize("raw", [True, False])
def test_kserve_grpc_client(chain, rows, raw):
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    async def ask():
        client = InferenceGRPCClient(f"127.0.0.1:{chain.predictor.grpc}", timeout=30)
        inputs = []
        for name, kind, array in chain.tensors(rows):
            item = InferInput(name, list(array.shape), kind, None if raw else array.reshape(-1).tolist())
            if raw:
                item.set_data_from_numpy(array, binary_data=True)
                item.parameters = None
            inputs.append(item)
        assert await client.is_model_ready(NAME)
        answer = await client.infer(InferRequest(NAME, inputs, request_id="g-1"))
        await client.close()
        return answer

    answer = asyncio.run(ask())
    assert answer.id == "g-1"
    assert answer.model_version == "7"
    check(chain, rows, {output.name: output.as_numpy() for output in answer.outputs})


def test_raw_features_with_missing_values_are_encoded_as_in_training(chain, front):
    batch = [made.raw_row(chain.built, index) for index in range(20, 28)]
    assert any(value is None for row in batch for value in row.values())
    status, document, _ = chain.infer(front, {"id": "r", "inputs": raw_inputs(batch)})
    assert status == 200, document
    check(chain, batch, {output["name"]: output["data"] for output in document["outputs"]})
    assert document["parameters"]["model_version"] == "7"
    assert document["parameters"]["digest"] == chain.built.digest


def by_key(*flights):
    return [{"name": "flight_id", "datatype": "BYTES", "shape": [len(flights)], "data": list(flights)}]


def stored_row(chain):
    """The flight's online features as a client would write them."""
    (row,) = chain.store.read([{"flight_id": serving_online.FLIGHT}])
    assert row["recent_flights_length"] == 3
    events = row["recent_flights"][-3:]
    plain = {k: v for k, v in row.items() if not k.startswith("_") and k not in ("flight_id", "recent_flights_length")}
    return {**plain, "recent_flights": [[None if v != v else v for v in event] for event in events]}


def test_a_flight_is_predicted_by_its_key_from_online_features(chain, front):
    status, document, _ = chain.infer(front, {"inputs": by_key(serving_online.FLIGHT, serving_online.FLIGHT)})
    assert status == 200, document
    row = stored_row(chain)
    assert row["aircraft_last_landing_arrival_delay"] == 20
    check(chain, [row, row], {output["name"]: output["data"] for output in document["outputs"]})
    assert document["parameters"]["as_of"] == "2013-05-02T10:00:00Z"
    assert document["parameters"]["digest"] == chain.built.digest


@pytest.mark.parametrize("method", ["shap", "lime"])
def test_a_flight_is_explained_by_its_key(chain, method):
    body = {"instances": [{"flight_id": serving_online.FLIGHT}], "method": method, "top": 5}
    status, document, _ = post(f"{chain.explainer.url}/v1/models/{NAME}:explain", body)
    assert status == 200, document
    assert document["as_of"] == "2013-05-02T10:00:00Z"
    (found,) = document["explanations"]
    assert len(found["attributions"]) == 5
    row = stored_row(chain)
    assert found["prediction"] == pytest.approx(float(chain.expected([row]).probability[0]), abs=1e-5)
    shown = {a["feature"]: a["value"] for a in found["attributions"] if a["feature"] != "recent_flights"}
    assert shown == {name: row[name] for name in shown}


def by_event(**changes):
    event = {**serving_online.described(), **changes}
    return [{"name": "event", "datatype": "BYTES", "shape": [1], "data": [json.dumps(event)]}]


def test_a_flight_that_nobody_stored_is_predicted_and_explained_by_its_event(chain, front):
    # The same flight under another name: what is known of its aircraft and airport is looked up all the same.
    event = {"flight_id": "ZZ-1", "event_id": None, "published_at": None}
    stored = chain.infer(front, {"inputs": by_key(serving_online.FLIGHT)})[1]
    status, document, _ = chain.infer(front, {"inputs": by_event(**event)})
    assert status == 200, document
    assert [output["data"] for output in document["outputs"]] == [output["data"] for output in stored["outputs"]]
    assert document["parameters"]["as_of"] == "2013-05-02T10:00:00Z"
    body = {"instances": [{"event": {**serving_online.described(), **event}}], "top": 3}
    status, explained, _ = post(f"{chain.explainer.url}/v1/models/{NAME}:explain", body)
    assert status == 200, explained
    assert explained["explanations"][0]["prediction"] == pytest.approx(document["outputs"][0]["data"][0], abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"distance": -1}, "distance is -1, allowed are 1 to 6000"),
        ({"distance": "far"}, "distance is 'far', not an integer"),
        ({"origin": "LAX"}, "origin is 'LAX', allowed are EWR, JFK, LGA"),
        ({"scheduled_departure": "noon"}, "not like 2013-01-01T10:00:00Z"),
        ({"colour": "red"}, "'colour' is not in the contract"),
        ({"carrier": None}, "carrier"),
    ],
)
def test_an_event_that_breaks_its_contract_is_refused(chain, front, changes, told):
    for status, document, _ in (
        chain.infer(front, {"inputs": by_event(**changes)}),
        post(
            f"{chain.explainer.url}/v1/models/{NAME}:explain",
            {"instances": [{"event": {**serving_online.described(), **changes}}]},
        ),
    ):
        assert status == 400
        assert told in document["error"]


def test_an_unknown_flight_is_not_found(chain, front):
    for status, document, _ in (
        chain.infer(front, {"inputs": by_key(serving_online.FLIGHT, "ZZ-1")}),
        post(f"{chain.explainer.url}/v1/models/{NAME}:explain", {"instances": [{"flight_id": "ZZ-1"}]}),
    ):
        assert status == 404
        assert "'ZZ-1'" in document["error"]


def changed(inputs, name, **entry):
    return [{**item, **entry} if item["name"] == name else item for item in inputs]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda inputs: [i for i in inputs if i["name"] != "carrier"], "carrier"),
        (lambda inputs: changed(inputs, "carrier", datatype="FP32", data=[1, 2, 3]), "FP32"),
        (lambda inputs: changed(inputs, "carrier", data=["AA", None, "AA"]), "carrier"),
        (lambda inputs: changed(inputs, "distance", datatype="BYTES", data=["1", "2", "3"]), "BYTES"),
        (lambda inputs: changed(inputs, "distance", data=["1", "2", "3"]), "FP64"),
        (lambda inputs: changed(inputs, "distance", shape=[1, 3]), "rows"),
        (lambda inputs: changed(inputs, "distance", data=[1e300, 1, 2]), "infinite"),
        (lambda inputs: changed(inputs, "recent_flights", shape=[3, 4, 8]), "recent_flights"),
        (lambda inputs: [*inputs, {"name": "magic", "datatype": "FP32", "shape": [3], "data": [1, 2, 3]}], "magic"),
        (
            lambda inputs: [*inputs, {"name": "flight_id", "datatype": "BYTES", "shape": [3], "data": ["x"] * 3}],
            "beside",
        ),
        (lambda inputs: [{"name": "flight_id", "datatype": "FP32", "shape": [1], "data": [1]}], "BYTES"),
    ],
)
def test_raw_features_that_are_wrong_are_refused_with_400(chain, front, rows, change, told):
    status, document, _ = chain.infer(front, {"inputs": change(raw_inputs(rows))})
    assert status == 400
    assert told in document["error"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda inputs: changed(inputs, "numeric", datatype="FP64"), "FP64"),
        (lambda inputs: changed(inputs, "length", data=[0, 9, 0]), "length"),
        (lambda inputs: changed(inputs, "categorical", data=[10**6] * 12), "code"),
        (lambda inputs: changed(inputs, "categorical", data=[-1] * 12), "code"),
        (lambda inputs: inputs[1:], "numeric"),
    ],
)
def test_encoded_tensors_that_are_wrong_are_refused_with_400(chain, rows, change, told):
    status, document, _ = chain.infer(chain.predictor, {"inputs": change(json_inputs(chain, rows))})
    assert status == 400
    assert told in document["error"]


def test_nan_is_refused_in_json_and_in_binary(chain, rows):
    import tritonclient.http as triton

    body = json.dumps({"inputs": json_inputs(chain, rows)}).replace("0.0", "NaN", 1).encode()
    status, document, _ = chain.infer(chain.predictor, body)
    assert (status, "NaN" in document["error"]) == (400, True)
    client = triton.InferenceServerClient(f"127.0.0.1:{chain.predictor.http}")
    inputs = []
    for name, kind, array in chain.tensors(rows):
        array = np.full_like(array, np.nan) if name == "numeric" else array
        inputs.append(triton.InferInput(name, list(array.shape), kind))
        inputs[-1].set_data_from_numpy(array)
    with pytest.raises(triton.InferenceServerException, match="NaN or infinity"):
        client.infer(NAME, inputs)
    client.close()


def test_tensors_encoded_for_another_package_are_refused(chain, rows):
    document = {"inputs": json_inputs(chain, rows), "parameters": {"digest": "sha256:" + "0" * 64}}
    status, answer, _ = chain.infer(chain.predictor, document)
    assert status == 409
    assert chain.built.digest in answer["error"]


def test_an_unknown_model_is_not_found(chain):
    assert post(f"{chain.predictor.url}/v2/models/other/infer", {"inputs": []})[0] == 404
    with grpc.insecure_channel(f"127.0.0.1:{chain.predictor.grpc}") as channel:
        from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
        from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

        with pytest.raises(grpc.RpcError) as caught:
            GRPCInferenceServiceStub(channel).ModelInfer(pb.ModelInferRequest(model_name="other"))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_nobody_unloads_the_model(chain):
    assert post(f"{chain.predictor.url}/v2/repository/models/{NAME}/unload", {})[0] == 403
    wait_ready(chain.predictor)


@pytest.mark.parametrize("method", ["shap", "lime"])
def test_explanations(chain, rows, method):
    body = {"instances": rows, "method": method}
    status, document, headers = post(
        f"{chain.explainer.url}/v1/models/{NAME}:explain", body, {"authorization": "Bearer secret"}
    )
    assert status == 200, document
    assert "secret" not in str(headers)
    assert document["digest"] == chain.built.digest
    truth = chain.expected(rows).probability
    for row, probability, found in zip(rows, truth, document["explanations"], strict=True):
        assert found["method"] == method
        assert found["prediction"] == pytest.approx(float(probability), abs=1e-5)
        assert {a["feature"] for a in found["attributions"]} == set(row)
        total = found["base_value"] + sum(a["contribution"] for a in found["attributions"])
        if method == "shap":
            assert total == pytest.approx(found["prediction"], abs=1e-6)
        values = {a["feature"]: a["value"] for a in found["attributions"]}
        assert values["carrier"] == row["carrier"]
        assert values["recent_flights"]["events"] == 8
        assert values["recent_flights"]["latest"]["arrival_delay"] == 7.0


def test_the_top_features_are_the_largest(chain, rows):
    whole, top = (
        post(f"{chain.explainer.url}/v1/models/{NAME}:explain", {"instances": rows[:1], **extra})[1]["explanations"][0]
        for extra in ({}, {"top": 5})
    )
    assert top["attributions"] == whole["attributions"][:5]
    sizes = [abs(a["contribution"]) for a in whole["attributions"]]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "JSON"), (b"[]", "instances"), ({"instances": {}}, "instances"), ({"instances": []}, "0 instances"),
        ({"instances": [{"magic": 1}]}, "magic"), ({"instances": [{"distance": "far"}]}, "distance"),
        ({"instances": [{"distance": 1}]}, "is missing"), ({"instances": [{"distance": 1}], "top": 0}, "top"),
        ({"instances": [{"distance": 1}], "method": "anchor"}, "anchor"),
        ({"instances": [{"distance": 1}], "topp": 1}, "topp"),
    ],
)  # fmt: skip
def test_explanations_of_nonsense_are_refused_with_400(chain, body, told):
    status, document, _ = post(f"{chain.explainer.url}/v1/models/{NAME}:explain", body)
    assert status == 400, document
    assert told in document["error"]


def lines_of(server, trace):
    """The log lines of a trace; the line is written after the answer."""
    end = time.monotonic() + 20
    while not (found := [line for line in server.lines() if line.get("trace.id") == trace]) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def test_a_request_leaves_one_line_at_each_server_under_its_trace(chain, rows):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    assert chain.infer(chain.transformer, {"inputs": raw_inputs(rows)}, headers)[0] == 200
    (first,), (second,) = (lines_of(server, trace) for server in (chain.transformer, chain.predictor))
    assert first["http.response.status_code"] == 200
    assert second["url.path"] == f"/v2/models/{NAME}/infer"
    assert first["span.id"] != second["span.id"]


def test_a_request_whose_deadline_has_passed_is_not_computed(chain, rows):
    status, document, _ = chain.infer(chain.transformer, {"inputs": raw_inputs(rows)}, {"x-request-deadline-ms": "0"})
    assert status == 504
    assert "deadline" in document["error"]
    with grpc.insecure_channel(f"127.0.0.1:{chain.predictor.grpc}") as channel:
        from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
        from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

        request = pb.ModelInferRequest(model_name=NAME)
        for name, kind, array in chain.tensors(rows):
            request.inputs.add(name=name, datatype=kind, shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        assert len(infer(request).outputs) == len(OUTPUTS)
        with pytest.raises(grpc.RpcError) as caught:
            infer(request, metadata=(("x-request-deadline-ms", "0"),))
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_requests_at_the_same_moment_get_their_own_answers(chain, front):
    batch = [made.raw_row(chain.built, index) for index in range(48)]

    def ask(row):
        return chain.infer(front, {"inputs": raw_inputs([row])})

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, batch))
    assert {status for status, *_ in answers} == {200}
    found = {name: [] for name in OUTPUTS}
    for _, document, _ in answers:
        for output in document["outputs"]:
            found[output["name"]] += output["data"]
    check(chain, batch, found)


def test_rows_that_are_unlike_the_training_rows_are_told(chain):
    ordinary = made.raw_row(chain.built, 3)
    # Each value is one that occurs, but no row is at the end of everything.
    at_the_end = {name: made.greatest(chain.built, name, value) for name, value in ordinary.items()}
    document = chain.infer(chain.whole, {"inputs": raw_inputs([ordinary, at_the_end, ordinary])})[1]
    assert document["parameters"]["out_of_distribution"] == "1"
    document = chain.infer(chain.whole, {"inputs": raw_inputs([ordinary])})[1]
    assert "out_of_distribution" not in document["parameters"]


def test_metrics_count_the_predictions(chain):
    text = subprocess.check_output(["curl", "-sf", f"{chain.predictor.url}/metrics"]).decode()
    (count,) = re.findall(rf'request_predict_seconds_count{{model_name="{NAME}"}} ([0-9.]+)', text)
    assert float(count) > 0


def test_servers_listen_on_loopback_only(chain):
    import psutil

    for server in (chain.predictor, chain.transformer, chain.explainer):
        listening = [c.laddr.ip for c in psutil.Process(server.process.pid).connections("tcp") if c.status == "LISTEN"]
        assert len(listening) == 2
        # gRPC shows its IPv4 address as one of IPv6.
        assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_the_transformer_holds_no_torch(chain):
    import psutil

    def mapped(server):
        return any("libtorch" in entry.path for entry in psutil.Process(server.process.pid).memory_maps())

    assert mapped(chain.predictor)
    assert mapped(chain.whole)
    assert not mapped(chain.transformer)


@pytest.mark.parametrize(
    ("role", "damage"),
    [("predictor", "bytes"), ("predictor", "key"), ("explainer", "missing"), ("transformer", "bytes")],
)
def test_a_tampered_package_is_refused_in_one_line(chain, tmp_path, role, damage):
    package = shutil.copytree(chain.built.path, tmp_path / "package")
    settings = dict(chain.settings)
    if damage == "bytes":
        weights = bytearray((package / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (package / "model.safetensors").write_bytes(weights)
    elif damage == "key":
        from fasttrack.registry import keys

        settings["FASTTRACK_VERIFY_KEY"] = str(tmp_path / "other.pem")
        (tmp_path / "other.pem").write_bytes(keys.new_key_pair()[1])
    else:
        (package / "config.json").unlink()
    code, printed = refused(role, package, settings, "--predictor_host", "127.0.0.1:1")
    assert code == 4
    assert len(printed.strip().splitlines()) == 1
    assert "Integrity check failed" in printed


def test_a_taken_port_is_named_in_one_line(chain):
    code, printed = refused(
        "transformer",
        chain.built.path,
        chain.settings,
        "--predictor_host",
        "127.0.0.1:1",
        "--http_port",
        str(chain.predictor.http),
    )
    assert code == 2
    assert str(chain.predictor.http) in printed
    assert len(printed.strip().splitlines()) == 1


def test_the_grpc_hop_gives_the_same_answer_and_sigterm_ends_the_server_cleanly(chain, rows, tmp_path):
    flags = ("--predictor_host", f"127.0.0.1:{chain.predictor.grpc}", "--predictor_protocol", "grpc-v2")
    with started("transformer", chain.built.path, chain.settings, tmp_path, *flags) as server:
        wait_ready(server)
        status, document, _ = chain.infer(server, {"id": "hop", "inputs": raw_inputs(rows)})
        assert status == 200, document
        check(chain, rows, {output["name"]: output["data"] for output in document["outputs"]})
        assert document["parameters"]["model_version"] == "7"
        status, document, _ = chain.infer(server, {"inputs": by_key(serving_online.FLIGHT)})
        assert (status, "--usecase" in document["error"]) == (400, True)
        assert server.stop() == 0
        assert server.lines()[-1]["message"] == "transformer stopped"
