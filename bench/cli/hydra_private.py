"""The private parts of Hydra that the command line needs, in one place.

Hydra has no public way to parse its own flags, or to split the overrides of a sweep into those of
its jobs. Both are needed to check every job of a command before the first one starts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override


def argument_parser() -> argparse.ArgumentParser:
    """Return Hydra's parser of `-m`, `--cfg`, `--config-dir`, ... and overrides."""
    return get_args_parser()


def overrides_of_jobs(overrides: Sequence[Override]) -> list[list[str]]:
    """Split the overrides of a sweep into those of each job."""
    (batch,) = BasicSweeper.split_arguments(list(overrides), None)
    return batch
