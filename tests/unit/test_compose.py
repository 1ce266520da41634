"""compose.yaml: nothing that Docker Compose does not know, nothing reachable from outside, all settings are ours."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from api_gateway.options import PREFIX as GATEWAY_PREFIX
from api_gateway.options import GatewayOptions
from fasttrack.serving.flags import BIND_VARIABLE, parse
from fasttrack.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: each for name, each in SERVICES.items() if each["image"].startswith("fasttrack/")}
# What the Compose Specification allows at each place, as far as it is used here.
TOP = {"name", "services", "volumes"}
SERVICE = {
    *("image", "build", "command", "depends_on", "environment", "healthcheck", "ports", "profiles", "volumes"),
    *("user", "read_only", "cap_drop", "security_opt", "tmpfs"),
}
KNOWN = (
    {PREFIX + f.name.upper() for f in fields(Settings)}
    | {GATEWAY_PREFIX + f.name.upper() for f in fields(GatewayOptions)}
    | {BIND_VARIABLE}
)


def filled(text: str) -> str:
    """`text` with the defaults of its variables, as Compose fills them in."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture(params=sorted(SERVICES))
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SERVICES[request.param]


def test_only_keys_that_compose_knows(service: dict[str, Any]) -> None:
    assert {key for key in COMPOSE if not key.startswith("x-")} <= TOP
    assert set(service) <= SERVICE
    assert set(service.get("build", {})) <= {"context", "dockerfile", "target", "args"}
    for waited, how in service.get("depends_on", {}).items():
        assert waited in SERVICES
        assert how["condition"] in ("service_started", "service_healthy", "service_completed_successfully")


def test_every_service_has_a_health_check(service: dict[str, Any]) -> None:
    check = service["healthcheck"]
    assert set(check) <= {"test", "interval", "timeout", "retries", "start_period"}
    assert check["test"][0] in ("CMD", "CMD-SHELL") and all(isinstance(word, str) for word in check["test"])
    for key in ("interval", "timeout"):
        assert re.fullmatch(r"\d+s", check.get(key, "1s"))


def test_ports_are_on_this_machine_only_and_taken_once() -> None:
    taken = [port for each in SERVICES.values() for port in each.get("ports", [])]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in taken)
    hosts = [port.split(":")[1] for port in taken]
    assert len(hosts) == len(set(hosts))


def test_images_are_pinned_and_ours_are_those_that_make_images_builds(service: dict[str, Any]) -> None:
    name, _, tag = filled(service["image"]).partition(":")
    assert tag and tag != "latest"
    # No host: whatever registry Docker is set to.
    assert "." not in name.split("/")[0]
    if name.startswith("fasttrack/"):
        entry = yaml.safe_load((ROOT / "images/images.yaml").read_text())["images"][name]
        build = {"context": ".", "dockerfile": entry["dockerfile"], "target": entry["target"]}
        assert service["build"] == build


def test_our_services_run_as_on_a_cluster() -> None:
    assert set(OURS) == {"migrations", "predictor", "transformer", "explainer", "gateway", "fasttrack"}
    for each in OURS.values():
        assert each["user"] == "65532:65532" and each["read_only"] is True
        assert each["cap_drop"] == ["ALL"] and each["tmpfs"] == ["/tmp"]


def test_every_variable_is_one_that_the_code_reads() -> None:
    for each in OURS.values():
        ours = {name for name in each["environment"] if name.startswith(PREFIX)}
        assert ours <= KNOWN, ours - KNOWN
        settings = Settings.from_environment({k: filled(v) for k, v in each["environment"].items()})
        for wanted in ("kafka", "schema_registry", "postgres", "redis", "lake", "packages", "runs", "jwks", "issuer"):
            assert settings.require(wanted)


def test_addresses_are_services_of_this_file() -> None:
    hosts = r"(?:https?|redis)://(?:[^@/]*@)?([a-z-]+)[:/]|^([a-z-]+):\d+$|@([a-z-]+):"
    for each in OURS.values():
        for value in each["environment"].values():
            for found in re.findall(hosts, filled(value)):
                assert next(filter(None, found)) in SERVICES, value


def test_model_servers_flags_are_theirs() -> None:
    for role in ("predictor", "transformer", "explainer"):
        options = parse(role, [filled(word) for word in SERVICES[role]["command"]])
        assert options.model_name == "flights"
    assert parse("transformer", SERVICES["transformer"]["command"]).predictor_host == "predictor:8081"


def test_volumes_are_declared_and_keys_are_read_only(service: dict[str, Any]) -> None:
    for volume in map(filled, service.get("volumes", [])):
        source, target, *mode = volume.split(":")
        assert source in COMPOSE["volumes"] or source.startswith("./")
        assert target.startswith("/")
        if "keys" in source or source.startswith("./"):
            assert mode == ["ro"]


def test_what_development_needs_is_there() -> None:
    images = {filled(each["image"]).split(":")[0] for each in SERVICES.values()}
    for part in ("kafka", "schema-registry", "postgres", "redis", "minio"):
        assert any(part in image for image in images), part
