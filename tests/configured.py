"""The plug-ins of conf/solver, each built as `+solver=NAME` builds it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from bench.plugins import CONF, members, register_resolvers

LOGS = "cluster-tiny-random-v0"  # of learners from logs


def solvers(kind: type) -> dict[str, Any]:
    """Return name -> a new instance, of every solver whose class is of this kind."""
    return {
        name: instantiate(config)
        for name, config in _configurations().items()
        if issubclass(get_object(config["_target_"]), kind)
    }


def slow(names: Iterable[str], *chosen: str) -> list[Any]:
    """Return parameters of a test; the chosen ones go through the code of others and are slow."""
    names = list(names)
    assert set(chosen) <= set(names), chosen
    return [pytest.param(one, marks=[pytest.mark.slow] * (one in chosen)) for one in names]


@cache
def _configurations() -> dict[str, Any]:
    """Return name -> resolved configuration of every solver, all in one composition.

    A composition for each solver would take as long as many tests.
    """
    register_resolvers()
    names = sorted(members("solver"))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = [f"+solver@solvers.{name}={name}" for name in names]
        config = compose("config", [f"logs={LOGS}", *chosen])
    return OmegaConf.to_container(config.solvers, resolve=True)  # type: ignore[return-value]
