"""Every compiled pod that asks Kafka is the KafkaUser with its rights, by TLS, or is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fasttrack.errors import ConfigurationError
from fasttrack.ingest.security import SUFFIXES
from fasttrack.kubeflow.checks.references import made_by, references
from fasttrack.kubeflow.compile import PACKAGE, render
from fasttrack.kubeflow.kafka_access import CA_PATH, USER_PATH, VARIABLES
from fasttrack.kubeflow.objects import Options
from fasttrack.settings import Settings
from fasttrack.usecase import UseCase, load

ROOT = Path(__file__).parents[2]
Object = dict[str, Any]


@pytest.fixture(scope="module")
def case() -> UseCase:
    return load(ROOT / "tests/golden/ugly.yaml")


def rendered(case: UseCase, **options: Any) -> dict[str, list[Object]]:
    made = render(case, namespace="ml", options=Options(continuous_drain=True, **options))
    return {name: list(yaml.safe_load_all(text)) for name, text in made.items() if name.endswith(".yaml")}


def deployments(files: dict[str, list[Object]]) -> list[Object]:
    both = [*files["sources.yaml"], *files["drain.yaml"]]
    return [each["spec"]["template"] for each in both if each["kind"] == "Deployment"]


def environment(container: Object) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env", ()) if "value" in each}


def steps(files: dict[str, list[Object]]) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """By step, its variables, and by path its Secrets."""
    spec, platform = files[PACKAGE]
    extra = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {
        label.removeprefix("exec-"): (
            environment(executor["container"]),
            {each["mountPath"]: each["secretName"] for each in extra[label]["secretAsVolume"]},
        )
        for label, executor in spec["deploymentSpec"]["executors"].items()
    }


def test_the_variables_are_settings_of_the_library() -> None:
    settings = Settings.from_environment(VARIABLES)
    assert settings.to_environment().items() >= VARIABLES.items()
    assert {name.removeprefix("FASTTRACK_KAFKA_") for name in VARIABLES} <= set(SUFFIXES)


def test_sources_and_drain_come_as_their_own_user(case: UseCase) -> None:
    files = rendered(case, kafka_cluster="events")
    users = {each["metadata"]["name"] for each in files["kafka.yaml"] if each["kind"] == "KafkaUser"}
    templates = deployments(files)
    assert len(templates) > 2
    for template in templates:
        (container,) = template["spec"]["containers"]
        assert environment(container).items() >= VARIABLES.items()
        paths = {each["name"]: each["mountPath"] for each in container["volumeMounts"] if each.get("readOnly")}
        secrets = {
            paths[each["name"]]: each["secret"]["secretName"]
            for each in template["spec"]["volumes"]
            if "secret" in each and not each["secret"].get("optional")
        }
        role = {"source": "ingest", "drain": "drain"}[template["metadata"]["labels"]["app.kubernetes.io/component"]]
        assert secrets == {CA_PATH: "events-cluster-ca-cert", USER_PATH: f"{case.name}-{role}"}
        assert secrets[USER_PATH] in users


def test_the_steps_that_ask_kafka_come_as_the_drains_user_and_no_other_step_has_a_certificate(case: UseCase) -> None:
    found = steps(rendered(case, kafka_cluster="events"))
    for step, (variables, secrets) in found.items():
        kafka = {path: secret for path, secret in secrets.items() if path in (CA_PATH, USER_PATH)}
        if step in ("drain", "validate"):
            assert kafka == {CA_PATH: "events-cluster-ca-cert", USER_PATH: f"{case.name}-drain"}
            assert variables.items() >= VARIABLES.items()
        else:
            assert not kafka
            assert not set(variables) & set(VARIABLES)
    assert {"drain", "validate"} < set(found)


def test_without_strimzi_nobody_asks_for_its_secrets(case: UseCase) -> None:
    files = rendered(case, leave_out=("kafka",))
    for template in deployments(files):
        assert not set(environment(template["spec"]["containers"][0])) & set(VARIABLES)
        named = {each["secret"]["secretName"] for each in template["spec"]["volumes"] if "secret" in each}
        assert not any("cluster-ca-cert" in name or name.endswith(("-drain", "-ingest")) for name in named)
    assert not any(set(variables) & set(VARIABLES) for variables, _ in steps(files).values())


def test_a_kafka_in_another_namespace_is_refused_until_its_secrets_are_copied(case: UseCase) -> None:
    with pytest.raises(ConfigurationError, match="certificates in streaming, and a pod mounts Secrets of its own"):
        rendered(case, kafka_namespace="streaming")
    copied = rendered(case, kafka_namespace="streaming", kafka_secrets_copied=True)
    assert deployments(copied) == deployments(rendered(case))
    # Pods that say nothing to Kafka by name need none.
    assert rendered(case, kafka_namespace="streaming", leave_out=("kafka",))


def test_another_clusters_security_is_said_beside_its_address_and_may_be_missing(case: UseCase) -> None:
    files = rendered(case)
    (pod,) = (
        each["spec"] for each in deployments(files) if any(v["name"] == "source-kafka" for v in each["spec"]["volumes"])
    )
    (container,) = pod["containers"]
    named = {
        each["name"]: each["valueFrom"]["secretKeyRef"].get("optional", False)
        for each in container["env"]
        if "valueFrom" in each
    }
    assert named == {"OTHER_KAFKA": False, **{f"OTHER_KAFKA_{suffix}": True for suffix in SUFFIXES}}
    (volume,) = (each["secret"] for each in pod["volumes"] if each["name"] == "source-kafka")
    assert volume["optional"] is True


def test_a_kafka_users_certificate_is_not_missed_before_the_operator_has_made_it(case: UseCase) -> None:
    objects = [each for name, found in rendered(case).items() if "/" not in name for each in found]
    made = made_by(objects)
    missed = {each.name for each in references(objects) if (each.kind.kind, each.name) not in made}
    assert "kafka-cluster-ca-cert" in missed
    assert not missed & {f"{case.name}-drain", f"{case.name}-ingest"}
