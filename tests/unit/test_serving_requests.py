"""Signature checks, raw requests, trace context, flags, and the KServe manifests against the flags."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import orjson
import pytest

from fasttrack.errors import ConfigurationError, DeadlineError, IntegrityError, InvalidRequestError
from fasttrack.kubeflow.inference import inference_service, serving_runtime, storage_uri
from fasttrack.serving.flags import parse
from fasttrack.serving.rows import RawReader
from fasttrack.serving.signature import Signature
from fasttrack.serving.tensors import InferenceCall, Tensor, WantedOutput, from_values
from fasttrack.serving.trace import RequestContext
from fasttrack.usecase import load

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = {
    "inputs": [
        {"name": "numeric", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "categorical", "datatype": "INT64", "shape": [-1, 1]},
    ],
    "outputs": [
        {"name": "probability", "datatype": "FP32", "shape": [-1]},
        {"name": "value", "datatype": "FP32", "shape": [-1]},
    ],
    "features": [
        {"name": "size", "role": "numeric", "nullable": True},
        {"name": "colour", "role": "category", "nullable": False},
        {"name": "recent", "role": "sequence", "nullable": True},
    ],
    "entity": {"name": "thing", "keys": ["shop", "thing"]},
}  # fmt: skip
SIGNATURE = Signature.parse(orjson.dumps(DOCUMENT))
READER = RawReader(SIGNATURE, 4)


def call(**arrays):
    inputs = {
        "numeric": Tensor("numeric", "FP32", np.zeros((3, 2), np.float32)),
        "categorical": Tensor("categorical", "INT64", np.zeros((3, 1), np.int64)),
    }
    for name, tensor in arrays.items():
        if tensor is None:
            del inputs[name]
        else:
            inputs[name] = tensor
    return InferenceCall(inputs)


def test_a_call_that_fits_is_taken():
    assert list(SIGNATURE.check(call(), 4)) == ["numeric", "categorical"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"numeric": None}, "'numeric': it is missing"),
        ({"other": Tensor("other", "FP32", np.zeros(3, np.float32))}, "'other': there is no such input"),
        ({"numeric": Tensor("numeric", "FP64", np.zeros((3, 2)))}, "FP64, not FP32"),
        ({"numeric": Tensor("numeric", "FP32", np.zeros((3, 3), np.float32))}, "[3, 3], not [-1, 2]"),
        ({"numeric": Tensor("numeric", "FP32", np.zeros(6, np.float32))}, "[6], not [-1, 2]"),
        ({"numeric": Tensor("numeric", "FP32", np.full((3, 2), np.nan, np.float32))}, "NaN"),
        ({"numeric": Tensor("numeric", "FP32", np.full((3, 2), np.inf, np.float32))}, "NaN or infinity"),
        ({"numeric": Tensor("numeric", "FP32", np.zeros((2, 2), np.float32))}, "different numbers of rows"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(changed, told):
    with pytest.raises(InvalidRequestError, match=re.escape(told)):
        SIGNATURE.check(call(**changed), 4)


@pytest.mark.parametrize("rows", [0, 5])
def test_batches_are_bounded(rows):
    arrays = {
        "numeric": Tensor("numeric", "FP32", np.zeros((rows, 2), np.float32)),
        "categorical": Tensor("categorical", "INT64", np.zeros((rows, 1), np.int64)),
    }
    with pytest.raises(InvalidRequestError, match="1 to 4 rows"):
        SIGNATURE.check(call(**arrays), 4)


def test_outputs_can_be_chosen():
    outputs = {"probability": np.zeros(3, np.float32), "value": np.ones(3, np.float32)}
    chosen = SIGNATURE.choose(outputs, InferenceCall({}, outputs=(WantedOutput("value", False),)))
    assert [tensor.name for tensor in chosen] == ["value"]
    with pytest.raises(InvalidRequestError, match="probability, value"):
        SIGNATURE.choose(outputs, InferenceCall({}, outputs=(WantedOutput("magic", False),)))


@pytest.mark.parametrize("document", [b"", b"{}", b"[]", orjson.dumps({**DOCUMENT, "entity": None})])
def test_a_signature_that_is_none_is_refused(document):
    with pytest.raises(IntegrityError, match=r"signature\.json"):
        Signature.parse(document)


def test_entity_keys_are_read_by_row():
    inputs = {
        "shop": from_values("shop", "BYTES", (2,), ["a", "b"]),
        "thing": from_values("thing", "BYTES", (2, 1), ["1", "2"]),
    }
    assert READER.tensors(InferenceCall(inputs)).keys == [{"shop": "a", "thing": "1"}, {"shop": "b", "thing": "2"}]


def test_features_are_read_by_column():
    inputs = {
        "size": from_values("size", "FP64", (2,), [1.5, None], nullable=True),
        "colour": from_values("colour", "BYTES", (2,), ["red", None], nullable=True),
        "recent": from_values("recent", "FP32", (2, 2, 1), [None, 3, 4, 5], nullable=True),
    }
    columns = READER.tensors(InferenceCall(inputs)).columns
    assert columns == {"size": [1.5, None], "colour": ["red", None], "recent": [[[3.0]], [[4.0], [5.0]]]}


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({}, "empty"),
        ({"shop": ("BYTES", (1,), ["a"])}, "'thing' is missing"),
        (
            {"shop": ("BYTES", (1,), ["a"]), "thing": ("BYTES", (1,), ["a"]), "size": ("FP32", (1,), [1])},
            "beside entity keys",
        ),
        ({"weight": ("FP32", (1,), [1])}, "no feature 'weight'"),
        ({"size": ("BYTES", (1,), ["1"])}, "datatype is BYTES"),
        ({"colour": ("FP32", (1,), [1])}, "datatype is FP32"),
        ({"size": ("FP32", (1, 2), [1, 2])}, "shape is [1, 2]"),
        ({"recent": ("FP32", (1, 2), [1, 2])}, "shape is [1, 2]"),
        ({"size": ("FP32", (5,), [1] * 5)}, "1 to 4"),
        ({"size": ("FP32", (2,), [1, 2]), "colour": ("BYTES", (1,), ["a"])}, "different numbers"),
    ],
)
def test_raw_tensors_that_do_not_fit_are_refused(tensors, told):
    inputs = {name: from_values(name, *rest) for name, rest in tensors.items()}
    with pytest.raises(InvalidRequestError, match=re.escape(told)):
        READER.tensors(InferenceCall(inputs))


def test_nan_and_bad_text_in_raw_tensors_are_refused():
    with pytest.raises(InvalidRequestError, match="NaN"):
        READER.tensors(InferenceCall({"size": Tensor("size", "FP32", np.array([np.nan], np.float32))}))
    with pytest.raises(InvalidRequestError, match="UTF-8"):
        READER.tensors(InferenceCall({"colour": Tensor("colour", "BYTES", np.array([b"\xff"], dtype=object))}))


def test_instances_are_keys_or_features():
    assert READER.instances([{"shop": "a", "thing": "1"}]).keys == [{"shop": "a", "thing": "1"}]
    assert READER.instances([{"size": 1}, {"colour": "red"}]).columns == {"colour": [None, "red"], "size": [1, None]}


EVENTS = [{"size": 1}, {"colour": "red"}]


def test_events_are_read_by_row():
    texts = from_values("event", "BYTES", (2,), [orjson.dumps(event).decode() for event in EVENTS])
    assert READER.tensors(InferenceCall({"event": texts})).events == EVENTS
    assert READER.instances([{"event": event} for event in EVENTS]).events == EVENTS


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"size": NaN}'])
def test_what_is_no_event_is_refused(text):
    with pytest.raises(InvalidRequestError, match="event: it is not"):
        READER.tensors(InferenceCall({"event": from_values("event", "BYTES", (1,), [text])}))


def test_a_use_case_may_have_a_feature_called_event():
    feature = {"name": "event", "role": "numeric", "nullable": True}
    reader = RawReader(Signature.parse(orjson.dumps({**DOCUMENT, "features": [feature]})), 4)
    assert reader.instances([{"event": 3}]).columns == {"event": [3]}


def test_events_are_few():
    with pytest.raises(InvalidRequestError, match="up to 64"):
        RawReader(SIGNATURE, 4096).instances([{"event": {}}] * 65)


@pytest.mark.parametrize(
    ("instances", "told"),
    [
        ([], "0 instances"), ([{}] * 5, "5 instances"), ([3], "not an object"), ([{}], "empty"),
        ([{"shop": "a"}], "'thing' is missing"), ([{"shop": 1, "thing": "a"}], "not a string"),
        ([{"weight": 1}], "no feature 'weight'"), ([{"size": 1}, {"shop": "a", "thing": "b"}], "mixed"),
        ([{"size": 1}, {"event": {}}], "mixed"), ([{"size": 1, "event": {}}], "no feature 'event'"),
        ([{"event": "x"}], "not JSON"), ([{"event": 3}], "not an object"),
    ],
)  # fmt: skip
def test_instances_that_do_not_fit_are_refused(instances, told):
    with pytest.raises(InvalidRequestError, match=re.escape(told)):
        READER.instances(instances)


def test_a_trace_is_continued():
    context = RequestContext.read({"traceparent": f"00-{'a' * 32}-{'b' * 16}-00", "x-request-deadline-ms": "1500"})
    assert context.trace_id == "a" * 32
    assert re.fullmatch(f"00-{'a' * 32}-{context.span_id}-00", context.outgoing()["traceparent"])
    assert context.span_id != "b" * 16
    assert 0 < int(context.outgoing()["x-request-deadline-ms"]) <= 1500


@pytest.mark.parametrize(
    "header", ["", "x", f"00-{'0' * 32}-{'b' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01", "00-" + "A" * 32]
)
def test_a_broken_trace_is_replaced(header):
    context = RequestContext.read({"traceparent": header})
    assert re.fullmatch("[0-9a-f]{32}", context.trace_id)
    assert context.trace_id not in header
    assert context.remaining() is None


def test_a_passed_deadline_stops_the_work():
    RequestContext.read({"x-request-deadline-ms": "60000"}).check()
    RequestContext.read({"x-request-deadline-ms": "soon"}).check()
    with pytest.raises(DeadlineError, match="deadline"):
        RequestContext("a" * 32, "b" * 16, expires=time.monotonic() - 1).check()


def test_gateway_and_servers_mean_the_same_header():
    # Neither may import the other.
    from api_gateway import upstream
    from fasttrack.serving import trace

    assert upstream.DEADLINE_HEADER == trace.DEADLINE_HEADER


def test_servers_listen_on_loopback_unless_told(monkeypatch):
    monkeypatch.delenv("FASTTRACK_BIND", raising=False)
    flags = ["--model_name", "m", "--package", "p"]
    assert parse("predictor", flags).host == "127.0.0.1"
    monkeypatch.setenv("FASTTRACK_BIND", "0.0.0.0")
    assert parse("predictor", flags).host == "0.0.0.0"


@pytest.mark.parametrize(
    ("role", "extra"),
    [
        ("predictor", ["--workers", "2"]),
        ("transformer", []),
        ("transformer", ["--predictor_protocol", "in-process", "--predictor_host", "127.0.0.1:8080"]),
    ],
)
def test_flags_that_can_not_work_are_refused(role, extra):
    with pytest.raises(ConfigurationError):
        parse(role, ["--model_name", "m", "--package", "p", *extra])


DIGEST = "sha256:" + "0123456789abcdef" * 4


def service(*, in_process=False):
    usecase = load(ROOT / "examples/flights/usecase.yaml")
    usecase = usecase.model_copy(update={"serving": usecase.serving.model_copy(update={"in_process": in_process})})
    uri = storage_uri(usecase, DIGEST)
    return inference_service(usecase, registry="", namespace="n", version=7, digest=DIGEST, storage_uri=uri)["spec"]


def containers():
    spec = service()
    runtime = serving_runtime(registry="", namespace="n")["spec"]["containers"][0]
    # KServe puts the model's arguments behind the runtime's.
    yield "predictor", {**runtime, "args": [*runtime["args"], *spec["predictor"]["model"]["args"]]}
    yield "transformer", spec["predictor"]["containers"][0]
    yield "explainer", spec["explainer"]["containers"][0]


@pytest.mark.parametrize(("role", "container"), containers())
def test_the_compiled_servers_use_flags_that_there_are(role, container):
    options = parse(role, container["args"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert options.http_port == container["ports"][0]["containerPort"]
    assert options.grpc_port == ports.get("grpc", 0)
    assert (options.model_version, options.digest) == ("7", DIGEST)
    assert {"name": "FASTTRACK_BIND", "value": "0.0.0.0"} in container["env"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    needed = [e["value"] for e in container["env"] if e["name"] == "FASTTRACK_VERIFY_KEY"] + [options.usecase or "/tmp"]
    assert all(any(path.startswith(mount) for mount in mounts) for path in needed)
    assert container["securityContext"]["runAsNonRoot"] is True


def test_in_one_process_the_runtimes_container_is_a_transformer_that_has_the_model():
    predictor = service(in_process=True)["predictor"]
    runtime = serving_runtime(registry="", namespace="n")["spec"]["containers"][0]
    assert "containers" not in predictor
    model = predictor["model"]
    options = parse("transformer", [*runtime["args"], *model["args"]])
    assert (options.predictor_protocol, options.predictor_host) == ("in-process", "")
    assert (options.http_port, options.grpc_port) == (8080, 8081)
    assert model["image"] == service()["predictor"]["containers"][0]["image"]
    # What looks entities up has what the transformer's own container has.
    beside = service()["predictor"]["containers"][0]
    assert model["env"] == beside["env"]
    assert model["volumeMounts"] == beside["volumeMounts"]


def test_the_servers_of_one_pod_share_no_port_and_find_each_other():
    made = dict(containers())
    predictor, transformer = (parse(role, made[role]["args"]) for role in ("predictor", "transformer"))
    assert transformer.predictor_host == f"127.0.0.1:{predictor.http_port}"
    assert transformer.predictor_protocol == "v2"
    ports = [port["containerPort"] for role in ("predictor", "transformer") for port in made[role]["ports"]]
    names = [port["name"] for role in ("predictor", "transformer") for port in made[role]["ports"]]
    assert len(set(ports)) == len(ports) and len(set(names)) == len(names)


def test_the_package_in_service_is_the_same_everywhere():
    spec = service()
    uri = spec["predictor"]["model"]["storageUri"]
    assert uri == f"pvc://fasttrack-data/packages/flights/{DIGEST.replace(':', '-')}"
    variables = spec["explainer"]["containers"][0]["env"]
    assert {"name": "STORAGE_URI", "value": uri} in variables


def test_the_kserve_folder_does_not_shadow_the_sdk():
    assert not (ROOT / "kserve/__init__.py").exists()
    import kserve

    assert "site-packages" in str(kserve.__file__)
