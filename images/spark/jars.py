"""Fill the image's Java folders: ``python jars.py JAVA_HOME JARS`` makes a launcher and fetches the Delta jars."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from fasttrack.local.jars import delta_jars
from fasttrack.local.jvm import java_home

if __name__ == "__main__":
    target, jars = Path(sys.argv[1]), Path(sys.argv[2])
    shutil.copytree(java_home(), target)
    jars.mkdir(parents=True)
    for jar in delta_jars():
        shutil.copy(jar, jars)
