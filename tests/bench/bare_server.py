"""The floor: uvicorn, orjson and torch around one network; no protocol, no checks, no log, no metrics.

    python -m tests.bench.bare_server PACKAGE PORT

Takes ``{"inputs": [n numbers, then c codes]}``, encoded already; answers probability, value and interval of that row.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import orjson
import safetensors.torch
import torch
import uvicorn

from fasttrack.models import Encoder
from fasttrack.models.architectures import build
from fasttrack.models.layers import Sizes

_HEADERS = [(b"content-type", b"application/json")]


class Bare:
    """The ASGI application.

    Args:
        package: folder of a model package without a sequence feature.
    """

    def __init__(self, package: Path) -> None:
        config = orjson.loads((package / "config.json").read_bytes())
        sizes = Sizes.of(Encoder.from_json(config["encoder"]))
        self._network = build(config["architecture"], config["parameters"], sizes)
        self._network.load_state_dict(safetensors.torch.load((package / "model.safetensors").read_bytes()))
        self._network.eval().requires_grad_(False)
        self._numbers = sizes.numeric
        self._center, self._scale = config["regression"]["center"], config["regression"]["scale"]

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer one request."""
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        inputs = orjson.loads(body)["inputs"]
        with torch.inference_mode():
            logit, ends = self._network(
                torch.tensor([inputs[: self._numbers]]), torch.tensor([inputs[self._numbers :]])
            )
            probability = torch.sigmoid(logit).tolist()[0]
            value, lower, upper = (ends * self._scale + self._center).tolist()[0]
        content = orjson.dumps({"probability": probability, "value": value, "lower": lower, "upper": upper})
        headers = [*_HEADERS, (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


if __name__ == "__main__":
    torch.set_num_threads(1)
    uvicorn.run(
        Bare(Path(sys.argv[1])),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
