"""Triton's gRPC client, in a process of its own: address and model as arguments, tensors as JSON on standard input."""

from __future__ import annotations

import json
import sys

import numpy as np
import tritonclient.grpc as triton


def main(address: str, model: str) -> None:
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model)
    inputs = []
    for entry in json.load(sys.stdin):
        dtype = {"FP32": np.float32, "INT64": np.int64, "BYTES": np.object_}[entry["datatype"]]
        inputs.append(triton.InferInput(entry["name"], entry["shape"], entry["datatype"]))
        inputs[-1].set_data_from_numpy(np.array(entry["data"], dtype=dtype).reshape(entry["shape"]))
    result = client.infer(model, inputs, request_id="abc")
    response = result.get_response()
    try:
        client.infer(model, inputs[:1])
        refusal = ""
    except triton.InferenceServerException as error:
        refusal = str(error)
    found = {
        "outputs": {output.name: result.as_numpy(output.name).tolist() for output in response.outputs},
        "id": response.id,
        "digest": response.parameters["digest"].string_param,
        "metadata": [tensor.name for tensor in client.get_model_metadata(model).outputs],
        "refusal": refusal,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
