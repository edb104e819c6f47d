"""The folder of outside data, for the tests that read it."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def external():
    """Return the folder named by BENCH_EXTERNAL_DATA, or skip the test."""
    folder = os.environ.get("BENCH_EXTERNAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("BENCH_EXTERNAL_DATA names no folder of outside data")
    return Path(folder)
