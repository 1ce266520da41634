"""A Spark session as the feature job starts its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from fasttrack.features.session import session
from fasttrack.local.jars import delta_jars
from fasttrack.local.jvm import java_home

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@contextmanager
def started() -> Iterator[SparkSession]:
    """It is stopped, and its Java ended, at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAVA_HOME", os.environ.get("JAVA_HOME") or str(java_home()))
        jars = os.environ.get("FASTTRACK_SPARK_JARS") or ",".join(map(str, delta_jars()))
        patch.setenv("FASTTRACK_SPARK_JARS", jars)
        patch.setenv("FASTTRACK_SPARK_CORES", "2")
        with session() as found:
            yield found
