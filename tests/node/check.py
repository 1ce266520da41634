"""What `make node-test` asks of the images, as pods under Pod Security `restricted` on a real node.

``python -m tests.node.check [gateway] [train] [tune] [spark] [serving] [steps]``; KUBECONFIG names the cluster.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from fasttrack import usecase as usecases
from fasttrack.kubeflow import pods
from fasttrack.kubeflow.inference import Scaling, inference_service, storage_uri
from fasttrack.kubeflow.spark import spark_application
from fasttrack.kubeflow.trainjob import train_job, training_runtime
from tests.features_histories import random_histories, shop, write_lake
from tests.node import rig
from tests.node.bench import SMALL, Bench, usecase_map
from tests.node.rig import NAMESPACE, REGISTRY, VERSION
from tests.node.steps import steps
from tests.node.tune import tune
from tests.unit import learning_table


def ask(host: str, port: int, method: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
    """One request; status and body."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    with closing(http.client.HTTPConnection(host, port, timeout=60)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None


def gateway(bench: Bench) -> str:
    """Migrations, then the gateway of the base: it starts and answers. Gives its pod's address."""
    rig.apply(rig.base("Job"))
    rig.until("migrations Job complete", lambda: rig.condition(rig.get("job", "migrations-0-1-0"), "Complete"))
    (deployment,) = rig.base("Deployment")
    spec = deployment["spec"]["template"]["spec"]
    spec["volumes"].append({"name": "jwks", "configMap": {"name": "jwks"}})
    spec["containers"][0]["volumeMounts"].append(pods.mount("jwks", "/var/run/fasttrack/jwks", read_only=True))
    # A gateway of an earlier run reads the new keys at once.
    keys = hashlib.sha256(bench.issuer.path.read_bytes()).hexdigest()
    deployment["spec"]["template"]["metadata"]["annotations"] = {"fasttrack.test/keys": keys}
    services = [each for each in rig.base("Service") if each["metadata"]["name"] == "gateway"]
    rig.apply([deployment, *services])
    rig.kubectl("rollout", "status", "deployment/gateway", "--timeout=180s")
    found = rig.running_pods("app.kubernetes.io/name=gateway")
    address = str(next(each for each in found if "deletionTimestamp" not in each["metadata"])["status"]["podIP"])
    for path in ("/livez", "/readyz"):
        status, body = ask(address, 8080, "GET", path)
        print(f"  GET {path}: {status} {body}")
        assert status == 200
    return address


def train(bench: Bench) -> None:
    """A TrainJob of ours: DDP over two pods, its files on the shared volume."""
    usecase = learning_table.usecase()
    assert usecase.training.workers == 2
    learning_table.write(bench.folder / "table")
    rig.put(bench.folder / "table", f"{pods.DATA_PATH}/lake/parcels/features")
    image, out = f"{REGISTRY}/fasttrack/trainer:{VERSION}", f"{pods.DATA_PATH}/runs/parcels/fit"
    job = train_job(
        usecase,
        image=image,
        namespace=NAMESPACE,
        name="parcels-train",
        features=f"{pods.DATA_PATH}/lake/parcels/features/fingerprint01",
        architecture="mlp",
        parameters={},
        out=out,
    )
    job["spec"]["trainer"]["resourcesPerNode"] = SMALL
    rig.apply([usecase_map(usecase), training_runtime(image=image, namespace=NAMESPACE, gpus=False), job])
    selector = "jobset.sigs.k8s.io/jobset-name=parcels-train"
    seen: set[str] = set()

    def done() -> bool:
        seen.update(each["metadata"]["name"] for each in rig.running_pods(selector))
        found = rig.get("trainjob", "parcels-train")
        assert not rig.condition(found, "Failed"), rig.kubectl("logs", "-l", selector, "--tail=40")
        return rig.condition(found, "Complete")

    rig.until("TrainJob complete", done, 600)
    files = {Path(name).name for name in rig.listing(out)}
    print(f"  pods: {sorted(seen)}; files: {sorted(files)}")
    assert len(seen) == 2 and {"model.safetensors", "config.json"} <= files
    print(rig.kubectl("logs", "-l", selector, "--tail=3"))


def spark(bench: Bench) -> None:
    """The Spark operator runs the feature job in a driver's and executors' pods."""
    usecase = shop()
    write_lake(usecase, bench.folder / "shop", random_histories(3, orders=60, events=200))
    lake = next(path for path in (bench.folder / "shop").rglob("raw")).parent.parent
    rig.put(lake, f"{pods.DATA_PATH}/lake")
    result = f"{pods.DATA_PATH}/runs/shop/features.json"
    rig.kubectl("exec", "files", "--", "mkdir", "-p", str(Path(result).parent))
    made = spark_application(
        usecase,
        image=f"{REGISTRY}/fasttrack/spark:{VERSION}",
        namespace=NAMESPACE,
        name="shop-features",
        result=result,
        executors=2,
    )
    made["spec"]["sparkConf"] |= {"spark.sql.shuffle.partitions": "2"}
    for role in ("driver", "executor"):
        made["spec"][role] |= {"coreRequest": "200m", "memory": "900m", "memoryOverhead": "600m"}
    rig.apply([usecase_map(usecase), made])
    roles: dict[str, str] = {}

    def done() -> bool:
        for each in rig.running_pods("sparkoperator.k8s.io/app-name=shop-features"):
            roles[each["metadata"]["name"]] = each["metadata"]["labels"].get("spark-role", "")
        state = rig.get("sparkapplication", "shop-features").get("status", {}).get("applicationState", {})
        assert "FAILED" not in state.get("state", ""), (
            state,
            rig.kubectl("logs", "-l", "spark-role=driver", "--tail=60"),
        )
        return state.get("state") == "COMPLETED"

    rig.until("SparkApplication completed", done, 600)
    answer = json.loads(rig.kubectl("exec", "files", "--", "cat", result))
    print(f"  pods: {roles}; answer: {json.dumps(answer)[:300]}")
    assert {"driver", "executor"} <= set(roles.values())
    assert "error" not in answer
    assert any("/features/" in name for name in rig.listing(f"{pods.DATA_PATH}/lake/shop"))


def serving(bench: Bench) -> None:
    """An InferenceService's pods answer a V2 request that comes by the gateway."""
    address = gateway(bench)
    usecase, digest = bench.built.usecase, bench.built.digest
    uri = storage_uri(usecase, digest)
    rig.put(bench.built.path, f"{pods.DATA_PATH}/{uri.split('/', 3)[3]}")
    made = inference_service(
        usecase,
        registry=REGISTRY,
        namespace=NAMESPACE,
        version=1,
        digest=digest,
        storage_uri=uri,
        scaling=Scaling(minimum=1, maximum=1, autoscaler="none"),
    )
    predictor = made["spec"]["predictor"]
    predictor["model"]["resources"] = SMALL
    for container in [*predictor["containers"], *made["spec"]["explainer"]["containers"]]:
        container["resources"] = SMALL
    rig.apply([*rig.base("ServingRuntime"), usecase_map(usecase), made])
    service = rig.until("Services of the InferenceService", lambda: _services(usecase.name), 120)
    selector = f"serving.kserve.io/inferenceservice={usecase.name}"
    rig.until("pods of the InferenceService ready", lambda: _all_ready(selector), 600)
    status = rig.get("inferenceservice", usecase.name).get("status", {})
    print(f"  Services: {service}; URL of the InferenceService: {status.get('url')}")
    registry = bench.registry()
    version = registry.register_model(usecase.name, str(bench.built.path), metadata={}, digest=digest)
    registry.deploy(
        usecase.name,
        version.version,
        signature=json.loads((bench.built.path / "signature.json").read_bytes()),
        usecase_document=usecases.dump(usecase),
        transformer_url=f"http://{usecase.name}-predictor.{NAMESPACE}",
        predictor_url=f"http://{usecase.name}-predictor.{NAMESPACE}",
        explainer_url=f"http://{usecase.name}-explainer.{NAMESPACE}",
    )
    registry.close()
    _ask_model(bench, address)


def _services(name: str) -> list[str]:
    listed = [line.removeprefix("service/") for line in rig.kubectl("get", "services", "-o", "name").split()]
    found = [each for each in listed if each.startswith(f"{name}-")]
    return found if any("explainer" in each for each in found) and any("predictor" in each for each in found) else []


def _all_ready(selector: str) -> bool:
    found = rig.running_pods(selector)
    return len(found) >= 2 and all(rig.condition(each, "Ready") for each in found)


def _ask_model(bench: Bench, address: str) -> None:
    token = bench.issuer.token("flights-integrator", iss="http://127.0.0.1")
    inputs = []
    for name, value in bench.raw_row(bench.built, 3).items():
        if value is not None and not isinstance(value, list):
            kind = "BYTES" if isinstance(value, str) else "FP64"
            inputs.append({"name": name, "shape": [1], "datatype": kind, "data": [value]})
    path = f"/v2/models/{bench.built.usecase.name}/infer"
    status, body = rig.until(
        "V2 answer by the gateway", lambda: _answered(address, path, {"inputs": inputs}, token), 120
    )
    print(f"  POST {path}: {status} {json.dumps(body)[:400]}")
    assert {output["name"] for output in body["outputs"]} == {"probability", "value", "lower", "upper"}
    explain = {"features": bench.raw_row(bench.built, 1), "method": "shap"}
    token = bench.issuer.token("flights-predictor", iss="http://127.0.0.1")
    status, body = ask(address, 8080, "POST", "/v1/usecases/flights/explain", explain, token)
    print(f"  POST explain: {status} {json.dumps(body)[:200]}")
    assert status == 200


def _answered(address: str, path: str, body: Any, token: str) -> tuple[int, Any] | None:
    status, found = ask(address, 8080, "POST", path, body, token)
    if status == 200:
        return status, found
    # The gateway reads deployments (and their roles) every two seconds; Services need a moment to have endpoints.
    assert status in (403, 404, 502, 503), (status, found)
    return None


PARTS: dict[str, Callable[[Bench], Any]] = {
    "gateway": gateway,
    "train": train,
    "tune": tune,
    "spark": spark,
    "serving": serving,
    "steps": steps,
}


def main() -> int:
    """Run the named parts, or all; the first failure ends the test."""
    wanted = sys.argv[1:] or list(PARTS)
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        bench.prepare()
        for part in wanted:
            print(f"{part} ...", flush=True)
            started = time.monotonic()
            PARTS[part](bench)
            print(f"{part}: passed in {time.monotonic() - started:.0f} s", flush=True)
    print(f"{len(wanted)} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
