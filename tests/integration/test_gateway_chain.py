"""The whole chain: official clients and plain HTTP -> gateway -> real transformer, predictor and explainer."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.constants.constants import PredictorProtocol

from fasttrack.local.platform import Platform
from tests.integration.serving_package import Built, build, raw_row
from tests.loopback import free_ports
from tests.unit.gateway_harness import Running, deployment, gateway, until

ROOT = Path(__file__).parents[2]


@dataclass
class Chain:
    """A gateway before three real servers."""

    gateway: Running
    built: Built
    explainer: subprocess.Popen[bytes]

    def features(self, index: int) -> dict[str, Any]:
        """A row of the package's data, as a client writes it."""
        return {"features": raw_row(self.built, index)}


def ready(port: int) -> bool:
    with suppress(OSError):
        url = f"http://127.0.0.1:{port}/v2/models/flights/ready"
        return bool(urllib.request.urlopen(url, timeout=5).status == 200)
    return False


@pytest.fixture(scope="module")
def chain(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("chain")
    built = build(folder / "package")
    roles = ("predictor", "transformer", "explainer")
    ports = dict(zip(roles, free_ports(3), strict=True))
    environment = {**os.environ, "FASTTRACK_VERIFY_KEY": str(built.verify_key), "PYTHONPATH": str(ROOT)}
    with ExitStack() as stack:
        processes = {}
        for role in roles:
            command = [sys.executable, "-m", "fasttrack.serving", role, "--model_name", "flights"]
            command += ["--package", str(built.path), "--http_port", str(ports[role]), "--grpc_port", "0"]
            if role == "transformer":
                command += ["--predictor_host", f"127.0.0.1:{ports['predictor']}", "--predictor_protocol", "v2"]
            log = stack.enter_context((folder / f"{role}.log").open("wb"))
            processes[role] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(processes[role].wait)
            stack.callback(processes[role].kill)
        until(lambda: all(ready(port) for port in ports.values()), 120)
        urls = {role: f"http://127.0.0.1:{port}" for role, port in ports.items()}
        signature = json.loads((built.path / "signature.json").read_bytes())
        known = replace(deployment(urls["transformer"], urls["explainer"]), signature=signature, digest=built.digest)
        running = stack.enter_context(gateway(folder, lambda: [known], redis=platform.settings().redis))
        yield Chain(running, built, processes["explainer"])


def test_a_prediction_with_its_explanation(chain: Chain) -> None:
    body = {**chain.features(0), "explain": "shap"}
    answer = chain.gateway.predict(body)
    assert answer.status == 200, answer.body
    found = answer.json()
    prediction = found["prediction"]
    assert 0 <= prediction["probability"] <= 1
    assert prediction["interval"]["lower"] <= prediction["value"] <= prediction["interval"]["upper"]
    assert prediction["class"] == ("late" if prediction["probability"] >= 0.5 else "not late")
    assert found["model"]["digest"] == chain.built.digest
    assert found["explanation"]["method"] == "shap"
    assert len(found["explanation"]["features"]) == 5
    sizes = [abs(item["contribution"]) for item in found["explanation"]["features"]]
    assert sizes == sorted(sizes, reverse=True)
    until(lambda: chain.gateway.predict(body).json()["cached"])


def test_the_explain_route(chain: Chain) -> None:
    token = chain.gateway.issuer.token("flights-predictor")
    for method in ("shap", "lime"):
        body = {**chain.features(1), "method": method}
        answer = chain.gateway.ask("POST", "/v1/usecases/flights/explain", body, token=token)
        assert answer.status == 200, answer.body
        assert answer.json()["explanation"]["method"] == method


def test_the_rows_of_the_package_are_accepted(chain: Chain) -> None:
    for index in range(40):
        answer = chain.gateway.predict(chain.features(index))
        assert answer.status == 200, answer.body
        # The made-up rows have hours beyond 23.
        assert {warning["code"] for warning in answer.json()["warnings"]} <= {"out_of_range"}


def test_tritonclient_through_the_gateway(chain: Chain) -> None:
    bearer = {"Authorization": f"Bearer {chain.gateway.issuer.token('flights-integrator')}"}
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{chain.gateway.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("flights", headers=bearer)
        assert client.get_server_metadata(headers=bearer)["name"] == "fasttrack"
        assert client.get_model_metadata("flights", headers=bearer)["name"] == "flights"
        expected = chain.gateway.predict(chain.features(2)).json()["prediction"]["probability"]
        for binary in (True, False):
            inputs = []
            for name, value in chain.features(2)["features"].items():
                if value is None or (isinstance(value, list) and not value):
                    continue
                array = np.array([value], dtype=object if isinstance(value, str) else np.float32)
                kind = "BYTES" if isinstance(value, str) else "FP32"
                tensor = tritonclient.http.InferInput(name, list(array.shape), kind)
                tensor.set_data_from_numpy(array, binary_data=binary)
                inputs.append(tensor)
            outputs = [tritonclient.http.InferRequestedOutput("probability", binary_data=binary)]
            # The client writes its own headers into the dict that it is given.
            result = client.infer("flights", inputs, outputs=outputs, headers=dict(bearer))
            assert result.as_numpy("probability")[0] == pytest.approx(expected, abs=1e-5)
        with pytest.raises(tritonclient.http.InferenceServerException):
            client.infer("flights", inputs)


def test_the_kserve_client_through_the_gateway(chain: Chain) -> None:
    async def story() -> None:
        client = InferenceRESTClient(RESTConfig(protocol=PredictorProtocol.REST_V2, retries=0))
        bearer = {"Authorization": f"Bearer {chain.gateway.issuer.token('flights-integrator')}"}
        base = f"http://127.0.0.1:{chain.gateway.port}"
        assert await client.is_server_ready(base)
        inputs = []
        for name, value in chain.features(3)["features"].items():
            if value is None or isinstance(value, list):
                continue
            kind = "BYTES" if isinstance(value, str) else "FP64"
            inputs.append(InferInput(name, [1], kind, [value]))
        request = InferRequest(model_name="flights", infer_inputs=inputs)
        response = await client.infer(base, request, model_name="flights", headers=bearer)
        assert {output.name for output in response.outputs} == {"probability", "value", "lower", "upper"}
        await client.close()

    asyncio.run(story())


def test_z_without_the_explainer_predictions_go_on(chain: Chain) -> None:
    chain.explainer.kill()
    chain.explainer.wait()
    answer = chain.gateway.predict({**chain.features(5), "explain": "lime"})
    assert answer.status == 200
    assert answer.json()["explanation"] is None
    assert answer.json()["warnings"][-1]["code"] == "explanation_unavailable"
    token = chain.gateway.issuer.token("flights-predictor")
    alone = chain.gateway.ask("POST", "/v1/usecases/flights/explain", chain.features(5), token=token)
    assert alone.status == 503
    assert "retry-after" in alone.headers
