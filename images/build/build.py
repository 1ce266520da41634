"""Build the images of images/images.yaml with docker, podman or buildah, whichever works here.

``python images/build/build.py [NAME...]``: images, or folders of images/; by default all. An image that several steps
share is built once and gets
all their names. FASTTRACK_BUILDER names another program (called as PROGRAM TAG CONTEXT -f FILE --target TARGET ...).
Build arguments come from the environment: TORCH_INDEX, TORCH_LOCK, MAVEN_MIRROR, CA_BUNDLE.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PASSED_ON = ("TORCH_INDEX", "TORCH_LOCK", "MAVEN_MIRROR", "CA_BUNDLE")
# Each builds from a Dockerfile; docker's own health check field needs its format.
ENGINES = {
    "docker": (["docker", "version"], ["docker", "build"], ["docker", "tag"]),
    "podman": (["podman", "info"], ["podman", "build", "--format", "docker"], ["podman", "tag"]),
    "buildah": (
        ["buildah", "info"],
        ["buildah", "build", "--format", "docker", "--layers"],
        ["buildah", "tag"],
    ),
}


def images() -> dict[str, dict[str, Any]]:
    """The table of images: name to Dockerfile, target and locks."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "images/images.yaml").read_text())["images"]
    return found


def deployables(names: list[str]) -> dict[tuple[str, str], list[str]]:
    """Dockerfile and target to the image names that they make, for the wanted names.

    Raises:
        SystemExit: a name is unknown.
    """
    table, found = images(), dict[tuple[str, str], list[str]]()
    wanted = [image for name in names for image in _named(name, table)] or list(table)
    for name in wanted:
        found.setdefault((table[name]["dockerfile"], table[name]["target"]), []).append(name)
    return found


def _named(name: str, table: dict[str, dict[str, Any]]) -> list[str]:
    """The images that a word of the command line means: one by its name, or all of a folder of images/."""
    full = name if "/" in name else f"fasttrack/{name}"
    found = [i for i, entry in table.items() if entry["dockerfile"] == f"images/{name}/Dockerfile"]
    if not found and full not in table:
        raise SystemExit(f"{name} is no image of images/images.yaml: {', '.join(table)}")
    return found or [full]


def engine() -> str:
    """The first engine that works here.

    Raises:
        SystemExit: there is none.
    """
    for name, (check, _, _) in ENGINES.items():
        if shutil.which(name) and subprocess.run(check, capture_output=True, check=False).returncode == 0:
            return name
    raise SystemExit("No docker (with its daemon), podman or buildah works here. Install one of them.")


def arguments(dockerfile: str, target: str, revision: str) -> list[str]:
    """The options of one build, the same for every engine."""
    text = (ROOT / dockerfile).read_text()
    given = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name) and f"ARG {name}=" in text}
    given |= {"REVISION": revision, "SOURCE": os.environ.get("SOURCE", "")}
    options = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
    return ["-f", str(ROOT / dockerfile), "--target", target, *options]


def build(dockerfile: str, target: str, tags: list[str], revision: str) -> None:
    """Build one image and give it all its names."""
    options = arguments(dockerfile, target, revision)
    if program := os.environ.get("FASTTRACK_BUILDER"):
        for tag in tags:  # the second and later ones come from the cache
            subprocess.run([program, tag, str(ROOT), *options], check=True)
        return
    _, command, name_it = ENGINES[engine()]
    subprocess.run([*command, *options, "-t", tags[0], str(ROOT)], check=True)
    for tag in tags[1:]:
        subprocess.run([*name_it, tags[0], tag], check=True)


def main() -> int:
    """Build what the command line names; prints seconds per image."""
    parser = argparse.ArgumentParser(description="Build FastTrack's images.")
    parser.add_argument("names", nargs="*", help="image names; by default all")
    parser.add_argument("--tag", default="0.1.0")
    parser.add_argument("--prefix", default="", help="put before each name, such as example.org/team/")
    options = parser.parse_args()
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    for (dockerfile, target), names in deployables(options.names).items():
        started = time.monotonic()
        build(dockerfile, target, [f"{options.prefix}{n}:{options.tag}" for n in names], head.stdout.strip())
        print(f"{', '.join(names)}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
