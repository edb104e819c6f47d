"""The overrides of a command, such as `seed=0,1` or `~seed`: parsed and checked."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer

from bench.cli.value_types import shown
from bench.errors import UserError
from bench.paths import path_component
from bench.plugins import CONF, GROUPS, members


def parse(overrides: Sequence[str], config_dir: str | None = None) -> list[Override]:
    """Parse overrides such as `solver.lr=0.1`, `seed=0,1` or `solver=glob(s*)`."""
    from bench.cli.hydra_private import config_loader

    loader = config_loader([str(CONF), *([str(Path(config_dir).absolute())] if config_dir else [])])
    return OverridesParser.create(loader).parse_overrides(list(overrides))


def check_overrides(flags: argparse.Namespace) -> None:
    """Check what Hydra reports by a traceback, or accepts with another effect than it seems.

    The values of a group are names of its files; no value of a sweep is named twice.

    Raises
    ------
    UserError
        For the first override that does not do what it says.
    """
    for one in parse(flags.overrides, flags.config_dir):
        key = one.key_or_group
        text = str(one.input_line)
        if not key:
            raise UserError(f"{text}: names no option; write OPTION=VALUE")
        if one.is_delete():
            continue
        if key == "sweep":
            raise UserError("sweep: is set by -m itself; leave it out")
        values = _values(one)
        if not values:
            there = ", ".join(sorted(members(key)))
            raise UserError(f"{text}: matches nothing{f'; there are {there}' if there else ''}")
        if key in (*GROUPS, "tuning"):
            for value in values:
                _check_choice(one.get_key_element().lstrip("+"), key, value)
        elif "/" in key and not all(isinstance(value, str) for value in values):
            raise UserError(f"{text}: the name of a file of Hydra's group {key} is needed")
        for i, value in enumerate(values):
            if value in values[:i]:
                raise UserError(f"{text}: {value} is named twice; name each value once")


def _values(one: Override) -> list[Any]:
    """Return the values of an override, in a sweep all of them (of an interval: none to check)."""
    if not one.is_sweep_override():
        return [one.value()]
    if not one.is_discrete_sweep():
        return [str(one.input_line)]
    return list(one.sweep_iterator(transformer=Transformer.identity))


def _check_choice(where: str, group: str, value: Any) -> None:
    if isinstance(value, Mapping):
        return  # options, which replace those of the file
    if not isinstance(value, str):
        there = ", ".join(sorted(members(group)))
        raise UserError(f"{where}: a name is needed, got {shown(value)}; choose one of {there}")
    if value:
        path_component(where, value)


def for_sweep(overrides: Sequence[str]) -> list[str]:
    """Rewrite the overrides of a sweep in a form that Hydra accepts.

    Hydra composes once what all jobs have in common. An option of a group that is swept, as in
    `+solver=cql,iql solver.steps=100`, does not exist there yet; written as a choice of one value,
    it is left to the jobs.
    """
    parsed = parse(overrides)
    swept = {one.key_or_group for one in parsed if one.is_sweep_override()}

    def rewritten(text: str, one: Override) -> str:
        group, inside, _ = one.key_or_group.partition(".")
        if not inside or group not in swept or one.is_sweep_override() or one.is_delete():
            return text
        key, _, value = text.partition("=")
        return f"{key}=choice({value or repr(value)})"

    return [rewritten(text, one) for text, one in zip(overrides, parsed, strict=True)]
