"""Where the outside data lies, for the tests that read it."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def external():
    """The folder named by BENCH_EXTERNAL_DATA."""
    folder = os.environ.get("BENCH_EXTERNAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("BENCH_EXTERNAL_DATA names no folder with the outside data")
    return Path(folder)
