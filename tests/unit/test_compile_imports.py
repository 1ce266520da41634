"""`fasttrack compile` works with what the `kubeflow` extra installs, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Everything that requirements/kubeflow.txt doesn't have is refused as if it weren't installed.
CODE = """
import importlib, importlib.metadata, pkgutil, re, sys
from pathlib import Path

locked = set(re.findall(r"^([a-z0-9-]+)==", Path("requirements/kubeflow.txt").read_text(), re.M))
owners = importlib.metadata.packages_distributions()

class Absent:
    def find_spec(self, name, path=None, target=None):
        owned = {re.sub(r"[-_.]+", "-", each).lower() for each in owners.get(name.partition(".")[0], ())}
        if owned and not owned & (locked | {"fasttrack"}):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import fasttrack.kubeflow

refused = []
for module in pkgutil.walk_packages(fasttrack.kubeflow.__path__, "fasttrack.kubeflow."):
    # Runs a pipeline on this machine, with what the extra `local` installs.
    if module.name != "fasttrack.kubeflow.local_run":
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            refused.append(f"{module.name}: {error}")
assert not refused, refused
for absent in ("psycopg2", "pyarrow", "numpy", "torch", "confluent_kafka"):
    try:
        importlib.import_module(absent)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{absent} could be imported: this test shows nothing")

from fasttrack.kubeflow.compile import render
from fasttrack.usecase import load

print(len(render(load("tests/golden/ugly.yaml"))))
"""


def test_compiling_needs_no_package_beyond_the_kubeflow_extra() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10
