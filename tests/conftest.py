"""Tests run side by side (`pytest -n`): each process computes in one thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
