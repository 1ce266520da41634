"""The Dockerfiles keep what an image promises: locked packages, no root, no build tools; the table names them all."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "images"
DOCKERFILES = sorted(IMAGES.glob("*/Dockerfile"))
STEPS = {path.parent.name for path in ROOT.glob("components/*/component.py")}
LABELS = ("title", "description", "version", "revision", "source", "licenses")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


lock, sbom, build, entrypoint = (
    load(IMAGES / name) for name in ("build/lock.py", "build/sbom.py", "build/build.py", "spark/entrypoint.py")
)


def instructions(text: str) -> list[tuple[str, str]]:
    """Keyword and argument of each instruction, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines()]


def stages(text: str) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Stage name to its base and its own instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for keyword, argument in instructions(text):
        if keyword == "FROM":
            base, _, name = argument.split()
            found[name] = (base, current := [])
        else:
            current.append((keyword, argument))
    return found


def lineage(text: str, target: str) -> list[tuple[str, str]]:
    """The instructions that end in the image of `target`, those of its base stages first."""
    known, chain, name = stages(text), [], target
    while name in known:
        chain.append(known[name][1])
        name = known[name][0]
    return [step for steps in reversed(chain) for step in steps]


TARGETS = sorted({(entry["dockerfile"], entry["target"]) for entry in build.images().values()})


@pytest.fixture(params=TARGETS, ids=lambda each: each[1])
def target(request: pytest.FixtureRequest) -> tuple[str, str]:
    file, name = request.param
    return (ROOT / file).read_text(), name


def test_every_deployable_has_an_image_and_every_dockerfile_is_named() -> None:
    table = build.images()
    wanted = STEPS | {"spark", "trainer", "predictor", "transformer", "explainer", "gateway", "migrations"}
    assert {name.removeprefix("fasttrack/") for name in table} == wanted
    assert {ROOT / entry["dockerfile"] for entry in table.values()} == set(DOCKERFILES)
    for entry in table.values():
        assert entry["target"] in stages((ROOT / entry["dockerfile"]).read_text())


def test_bases_are_python_slim_and_nothing_is_latest(target: tuple[str, str]) -> None:
    text, _ = target
    known = stages(text)
    for base, _ in known.values():
        assert base == "python:3.11-slim" or base in known
    assert ":latest" not in text and "ADD " not in text


def test_the_image_ends_without_root(target: tuple[str, str]) -> None:
    text, name = target
    users = [argument for keyword, argument in lineage(text, name) if keyword == "USER"]
    assert users and users[-1] == "65532:65532"


def test_packages_come_by_hash_from_the_locks_of_the_table(target: tuple[str, str]) -> None:
    text, name = target
    entry = next(e for e in build.images().values() if e["target"] == name)
    runs = " && ".join(argument for keyword, argument in instructions(text) if keyword == "RUN").split(" && ")
    installs = [run for run in runs if re.search(r"-m pip\b.* (install|wheel)( |$)", run)]
    assert installs
    for run in installs:
        # Without hashes only what a locked step before it built, or our own source.
        assert "--require-hashes" in run or "--no-index" in run or run.rstrip().endswith("source/"), run
        assert "--no-deps" in run and ("--no-build-isolation" in run or "--only-binary" in run or "--no-index" in run)
    for locked in [*entry["locks"], *(["torch"] if entry.get("torch") else [])]:
        assert f"requirements/{locked}.txt" in text
        assert "--hash=sha256:" in (ROOT / f"requirements/{locked}.txt").read_text()


def test_the_last_stage_takes_only_what_earlier_ones_made(target: tuple[str, str]) -> None:
    text, name = target
    known, own = stages(text), []
    while known[name][0] in known and known[name][0] != "torch":
        own, name = [*known[name][1], *own], known[name][0]
    own = [*known[name][1], *own]
    for keyword, argument in own:
        assert keyword != "ADD"
        if keyword == "COPY":
            assert argument.startswith("--from="), argument
        if keyword == "RUN":
            assert not re.search(r"\b(apt-get|apt|pip install|gcc|make|curl|wget)\b", argument), argument
    remove = next(argument for keyword, argument in own if keyword == "RUN")
    for tool in ("-name pip", "-name setuptools", "-name wheel", "-name ensurepip", "/usr/local/bin/pip*"):
        assert tool in remove


def test_images_say_what_they_are(target: tuple[str, str]) -> None:
    text, name = target
    steps = lineage(text, name)
    labels = " ".join(argument for keyword, argument in steps if keyword == "LABEL")
    for label in LABELS:
        assert f"org.opencontainers.image.{label}=" in labels
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert ("ARG", f"VERSION={version}") in steps
    assert sum(keyword == "HEALTHCHECK" for keyword, _ in steps) == 1
    assert any("/usr/share/doc/fasttrack/sbom.cdx.json" in argument for _, argument in steps)
    assert any(keyword == "ENTRYPOINT" and argument.startswith("[") for keyword, argument in steps)


def test_images_of_steps_can_run_kfp_components() -> None:
    for step in STEPS:
        locks = build.images()[f"fasttrack/{step}"]["locks"]
        assert any(re.search(r"^kfp==", (ROOT / f"requirements/{n}.txt").read_text(), re.M) for n in locks), step


def test_torch_is_one_layer_for_all_that_hold_it() -> None:
    found = {}
    for name, entry in build.images().items():
        text = (ROOT / entry["dockerfile"]).read_text()
        if entry.get("torch"):
            found[name] = stages(text)["torch"]
        else:
            assert "torch" not in stages(text), name
            for locked in entry["locks"]:
                assert not re.search(r"^torch==", (ROOT / f"requirements/{locked}.txt").read_text(), re.M), (
                    name,
                    locked,
                )
    first, *others = found.values()
    assert len(found) == 5 and all(other == first for other in others)


def test_torch_s_lock_is_what_the_images_locks_say() -> None:
    versions = {
        name: block.split(" ")[0] for name, block in lock.entries((ROOT / "requirements/torch.txt").read_text())
    }
    assert "torch" in versions and "triton" not in versions
    for locked in ("train", "serve", "explain", "dev"):
        text = (ROOT / f"requirements/{locked}.txt").read_text()
        for name, version in versions.items():
            assert re.search(rf"^{re.escape(version)} ", text, re.M), (locked, name)


def test_part_of_a_lock_keeps_every_hash(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.txt", tmp_path / "part.txt"
    whole.write_text(
        "# made by\na-b==1 ; python_version < '3.12' \\\n    --hash=sha256:aa\na-b==2 \\\n    --hash=sha256:bb\n"
        "c==3 \\\n    --hash=sha256:cc \\\n    --hash=sha256:dd\nd==4 \\\n    --hash=sha256:ee\n"
    )
    part.write_text("A_b==1 \\\n    --hash=sha256:aa\n")
    assert lock.select("without", str(whole), [str(part), "D"]) == (
        "c==3 \\\n    --hash=sha256:cc \\\n    --hash=sha256:dd\n"
    )
    assert lock.select("only", str(whole), ["a.b"]).count("--hash") == 2
    with pytest.raises(SystemExit, match="doesn't lock x"):
        lock.select("only", str(whole), ["x"])
    with pytest.raises(SystemExit):
        lock.select("some", str(whole), [])


def test_bill_of_materials_names_packages_jars_and_the_base(tmp_path: Path) -> None:
    info = tmp_path / "lib/demo-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: Demo\nVersion: 1.2\nLicense-Expression: MIT\n")
    (tmp_path / "lib/delta-core-4.4.0.jar").write_bytes(b"jar")
    status = tmp_path / "status"
    status.write_text(
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2:2.36+x\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n"
    )
    found = sbom.document("fasttrack/demo", [str(tmp_path / "lib")], status)
    assert found["bomFormat"] == "CycloneDX" and found["specVersion"] == "1.5"
    assert [c["name"] for c in found["components"]] == ["delta-core", "Demo", "libc6"]
    jar, package, base = found["components"]
    assert package["purl"] == "pkg:pypi/demo@1.2" and package["licenses"] == [{"expression": "MIT"}]
    assert jar["version"] == "4.4.0" and len(jar["hashes"][0]["content"]) == 64
    assert base["purl"] == "pkg:deb/debian/libc6@2%3A2.36%2Bx?arch=amd64"
    assert json.dumps(found) == json.dumps(sbom.document("fasttrack/demo", [str(tmp_path / "lib")], status))


def test_spark_s_driver_and_executor_start_as_its_scheduler_expects() -> None:
    environ = {
        **{f"SPARK_EXECUTOR_{name}": name.lower() for name in ("ID", "CORES", "POD_IP", "POD_NAME")},
        "SPARK_EXECUTOR_MEMORY": "1g",
        "SPARK_JAVA_OPT_10": "-Dten",
        "SPARK_JAVA_OPT_2": "-Dtwo",
        "SPARK_HOME": "/spark",
        "JAVA_HOME": "/java",
        "SPARK_CLASSPATH": "/jars/*",
        "SPARK_DRIVER_BIND_ADDRESS": "10.0.0.1",
        "SPARK_DRIVER_URL": "spark://x",
        "SPARK_APPLICATION_ID": "app",
        "SPARK_RESOURCE_PROFILE_ID": "0",
    }
    driver = entrypoint.command(["driver", "--properties-file", "p", "local:///job.py", "--a"], environ)
    assert driver[0] == "/spark/bin/spark-submit" and driver[-4:] == [
        "--properties-file",
        "p",
        "local:///job.py",
        "--a",
    ]
    assert "spark.driver.bindAddress=10.0.0.1" in driver and driver[driver.index("--deploy-mode") + 1] == "client"
    executor = entrypoint.command(["executor"], environ)
    assert executor[:6] == ["/java/bin/java", "-Dtwo", "-Dten", "-Xms1g", "-Xmx1g", "-cp"]
    assert executor[6] == "/jars/*:/spark/jars/*"
    assert executor[executor.index("--driver-url") + 1] == "spark://x"
    assert executor[executor.index("--podName") + 1] == "pod_name"
    assert entrypoint.command(["ls", "-l"], environ) == ["ls", "-l"]
    with pytest.raises(KeyError):
        entrypoint.command(["executor"], {})


def test_what_is_not_named_never_reaches_a_builder() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = [line[1:] for line in lines if line.startswith("!")]
    for word in allowed:
        assert not re.search(r"\.git|\.env|\.venv|\.pem|\.key|secret|tests|shared", word), word
    denied = [line for line in lines[1:] if not line.startswith("!")]
    assert {"**/*.pem", "**/*.key", "**/.env"} <= set(denied)
    assert max(map(lines.index, (f"!{word}" for word in allowed))) < min(map(lines.index, denied))


def test_everything_that_a_dockerfile_copies_is_let_through() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in DOCKERFILES:
        for keyword, argument in instructions(path.read_text()):
            if keyword != "COPY" or argument.startswith("--from=") or "${" in argument:
                continue
            for source in argument.split()[:-1]:
                assert (ROOT / source).exists(), (path, source)
                assert any(Path(source).match(word) or Path(source).is_relative_to(word) for word in allowed), source


def test_what_the_java_stage_copies_is_all_that_its_program_imports(tmp_path: Path) -> None:
    text = (ROOT / "images/spark/Dockerfile").read_text()
    stage = text[text.index(" AS java") : text.index(" AS ours")]
    for words in re.findall(r"^COPY (.*) source/(\S+)$", stage, re.MULTILINE):
        target = tmp_path / words[1]
        for source in map(ROOT.joinpath, words[0].split()):
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    command = [sys.executable, ROOT / "images/spark/jars.py"]
    found = subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    # It is its missing arguments that end it.
    assert "IndexError" in found.stderr, found.stderr


def test_an_image_is_found_by_its_name_or_by_its_folder() -> None:
    assert build.deployables(["gate", "fasttrack/tune"]) == {
        ("images/launcher/Dockerfile", "launcher"): ["fasttrack/gate", "fasttrack/tune"]
    }
    assert set(build.deployables(["serve"])) == {
        ("images/serve/Dockerfile", "predictor"),
        ("images/serve/Dockerfile", "transformer"),
    }
    assert sum(map(len, build.deployables([]).values())) == len(build.images())
    with pytest.raises(SystemExit, match="is no image"):
        build.deployables(["nothing"])


def test_dockerfiles_name_no_registry_host_and_no_machine_s_path() -> None:
    for path in [*DOCKERFILES, IMAGES / "images.yaml", ROOT / "compose.yaml", *IMAGES.glob("*/*.py")]:
        text = path.read_text()
        assert "/work/" not in text and "/root/" not in text, path
        assert not re.search(r"https?://(?!127\.0\.0\.1|0\.0\.0\.0|schema-registry|gateway)", text), path


def test_read_only_images_write_only_where_volumes_are() -> None:
    for path in DOCKERFILES:
        assert "HOME=/tmp" in path.read_text()
    assert yaml.safe_load((IMAGES / "images.yaml").read_text()).keys() == {"images"}
