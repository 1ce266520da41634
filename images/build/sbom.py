"""Write what is in an image as a CycloneDX 1.5 document: Python packages, Java archives and Debian packages.

``python sbom.py NAME OUT FOLDER...``: NAME is the image's; each FOLDER holds installed Python packages, or jars. The
same content gives the same text: no time stamps, no random serial number.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG_STATUS = Path("/var/lib/dpkg/status")


def python_packages(folders: list[str]) -> Iterator[dict[str, Any]]:
    """A component for each Python distribution in `folders`."""
    for found in distributions(path=folders):
        name, version = found.metadata["Name"], found.version
        component = {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name.lower()}@{version}"}
        yield component | _license(found)


def _license(found: Distribution) -> dict[str, Any]:
    if expression := found.metadata.get("License-Expression"):
        return {"licenses": [{"expression": expression}]}
    named = [c.rpartition(" :: ")[2] for c in found.metadata.get_all("Classifier", []) if c.startswith("License ::")]
    text = (found.metadata.get("License") or "").strip()
    if not named and text and "\n" not in text and len(text) < 80:
        named = [text]
    return {"licenses": [{"license": {"name": name}} for name in named]} if named else {}


def jars(folders: list[str]) -> Iterator[dict[str, Any]]:
    """A component for each Java archive in `folders`, told apart by its checksum: a file name isn't a coordinate."""
    for folder in folders:
        for path in sorted(Path(folder).glob("**/*.jar")):
            name, _, version = path.stem.rpartition("-")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            yield {
                "type": "library",
                "name": name or path.stem,
                "version": version,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }


def debian_packages(status: Path) -> Iterator[dict[str, Any]]:
    """A component for each installed package of dpkg's status file; none where the base isn't Debian."""
    for block in status.read_text().split("\n\n") if status.is_file() else []:
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
        if fields.get("Status", "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={fields['Architecture']}"
            yield {"type": "library", "name": name, "version": version, "purl": purl}


def document(image: str, folders: list[str], status: Path = DPKG_STATUS) -> dict[str, Any]:
    """The whole bill of materials."""
    found = [*python_packages(folders), *jars(folders), *debian_packages(status)]
    components = {json.dumps(c, sort_keys=True): c for c in found}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": image}},
        "components": [components[key] for key in sorted(components, key=lambda k: (components[k]["name"].lower(), k))],
    }


if __name__ == "__main__":
    out = Path(sys.argv[2])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document(sys.argv[1], sys.argv[3:]), indent=1) + "\n")
