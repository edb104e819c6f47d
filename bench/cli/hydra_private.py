"""The private parts of Hydra that the command line needs, in one place.

Hydra has no public way to parse its own flags, or to split the overrides of a sweep into those of
its jobs. Both are needed to check every job of a command before the first one starts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.override_parser.types import Override

from bench.errors import UserError


def argument_parser() -> argparse.ArgumentParser:
    """Return Hydra's parser of `-m`, `--cfg`, `--config-dir`, ... and overrides.

    Its errors are a `UserError`.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists all flags")

    parser: Any = get_args_parser()
    parser.error = refuse
    return parser  # type: ignore[no-any-return]  # an attribute of this instance is replaced


def config_loader(folders: Sequence[str]) -> ConfigLoaderImpl:
    """Return what finds the files of a group in `folders`, for `glob(...)` in a sweep."""
    first, *others = folders
    path = create_config_search_path(first)
    for folder in others:
        path.append("command-line", f"file://{folder}")
    return ConfigLoaderImpl(path)


def overrides_of_jobs(overrides: Sequence[Override]) -> list[list[str]]:
    """Split the overrides of a sweep into those of each job."""
    (batch,) = BasicSweeper.split_arguments(list(overrides), None)
    return batch
