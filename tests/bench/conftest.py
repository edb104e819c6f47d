"""An MLflow store that the tests of the tracking share: its schema takes seconds."""

from __future__ import annotations

import pytest

from bench.tracking.database import sqlite_uri
from bench.tracking.store import Store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store in a folder whose name a URI cannot hold as it is; tests have own keys."""
    folder = tmp_path_factory.mktemp("mlflow") / "feature%2Fx" / "a?b#c d&e"
    folder.mkdir(parents=True)
    return Store(sqlite_uri(folder / "mlflow.db"), "test", str(folder / "artifacts"))
