"""From the overrides of a command to the checked configuration of every job."""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import IntervalSweep, Override, Transformer
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from bench import programs, renamed
from bench.cli import options
from bench.cli.overrides import parse
from bench.cli.schema import check_fields, check_group
from bench.cli.value_types import unknown
from bench.errors import CRASHES, UserError, one_line
from bench.plugins import CONF, GROUPS, members, read, register_resolvers
from bench.tracking import flatten

BAD_INPUT = (*programs.BAD_INPUT, HydraException, OmegaConfBaseException)

register_resolvers()
logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what is reported here


# -- composing -----------------------------------------------------------------------------------


def composed(flags: argparse.Namespace) -> list[DictConfig]:
    """Compose and check the configuration of every job of a command.

    Hydra's own part is below `hydra`. For a search there is one: that of the solver's own values.

    Raises
    ------
    UserError
        For the first option or value that does not exist or has the wrong type.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        extra = _search_path(flags.config_dir)
        if not flags.multirun:
            return [checked(_compose([*flags.overrides, *extra]))]
        from bench.cli.hydra_private import overrides_of_jobs

        extra.append("hydra.mode=MULTIRUN")
        overrides = parse(flags.overrides, flags.config_dir)
        of_hydra = [
            str(one.input_line)
            for one in overrides
            if re.match(r"tuning$|hydra[./]", one.key_or_group)
        ]
        shared = _compose([*of_hydra, *extra])
        if is_search(shared):
            return [checked(_compose([*_fixed(shared, flags.overrides), *extra]))]
        return [checked(_compose([*job, *extra])) for job in overrides_of_jobs(overrides)]


def check_composition(flags: argparse.Namespace) -> None:
    """Check that the overrides of a single run can be composed, whether or not it is complete.

    Raises
    ------
    UserError
        For the first option that does not exist.
    """
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        _compose([*flags.overrides, *_search_path(flags.config_dir)])


def _search_path(folder: str | None) -> list[str]:
    return [f"hydra.searchpath=[file://{Path(folder).absolute()}]"] if folder else []


def _compose(overrides: list[str]) -> DictConfig:
    try:
        return hydra.compose("config", overrides, return_hydra_config=True)
    except MissingConfigException as error:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if group == "hydra/sweeper":
            raise UserError(
                f'{group}={name}: the plug-in is missing; pip install -e ".[tuning]"'
            ) from None
        there = error.options or members(group)
        raise unknown(f"{group}={name}", f"{group}:", name, there) from None
    except HydraException as error:
        key = re.search(r"Could not override '([^']+)'", str(error))
        if key is None:
            raise
        inside = getattr(error.__cause__, "full_key", None) or ""
        if inside.startswith(f"{key[1]}."):
            raise UserError(
                f"{inside}: the configuration has no such key to replace; to add it, write "
                f"++{key[1]}=..."
            ) from None
        chosen = (*GROUPS, "hydra.searchpath")
        groups = [text for text in overrides if text.split("=")[0].lstrip("+") in chosen]
        raise _unknown(key[1], plain(hydra.compose("config", groups))) from None


# -- old names -----------------------------------------------------------------------------------


def current_overrides(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """Translate the old names of options, values and solvers, with a notice for each."""
    candidates = [text for text in overrides if _translated(text) != text]
    if not candidates:
        return list(overrides)
    own = _options_of_solvers(overrides, config_dir)
    return [
        text if text not in candidates or _key(text) in own else _notice(text, _translated(text))
        for text in overrides
    ]


def _translated(override: str) -> str:
    """Translate one override, whatever the solver: `solver.lam=0.9` -> `solver.gae_lambda=0.9`."""
    text, equals, value = override.partition("=")
    prefix = re.match(r"[+~]*", text)[0]  # type: ignore[index]  # it matches the empty string too
    key = renamed.current_key(text.removeprefix(prefix))
    if key == "solver":
        values = [renamed.SOLVERS.get(name, name) for name in value.split(",")]
    else:
        values = [str(renamed.current_value(key, one)) for one in value.split(",")]
    return f"{prefix}{key}{equals}{','.join(values)}"


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _options_of_solvers(overrides: Sequence[str], config_dir: str | None) -> set[str]:
    """Return the dotted options of the chosen solvers: a plug-in's own option may be named so."""
    chosen = [text.partition("=")[2] for text in overrides if _key(text) == "solver"]
    names = [renamed.SOLVERS.get(name, name) for text in chosen for name in text.split(",") if name]
    found: set[str] = set()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for name in names:
            config = _compose([f"+solver={name}", *_search_path(config_dir)])
            found |= set(values_of_solver(config))
    return found


def _notice(old: str, new: str) -> str:
    print(f"{old}: renamed; write {new} (the old name ends with the next version)", file=sys.stderr)
    return new


def use_current_names(config: DictConfig) -> None:
    """Rename, in place, the old options of a user's own yaml file below conf/solver."""
    if config.get("solver") is not None:
        with read_write(config), open_dict(config):
            _current_solver(config.solver, "solver")


def _current_solver(config: Any, where: str) -> None:
    """Rename, in place, the old options of a solver or of one of its parts."""
    if OmegaConf.is_list(config):
        for i, value in enumerate(config):
            _current_solver(value, f"{where}[{i}]")
    if not OmegaConf.is_dict(config):
        return
    target = config.get("_target_")
    if target and isinstance(target, str):
        new_target = renamed.current_target(target)
        if new_target != target:
            config["_target_"] = _notice(f"{where}._target_={target}", new_target)
        taken = options.parameters(_found(new_target))
        for old in [key for key in config if key in renamed.PLUGIN_KEYS and key not in taken]:
            new = renamed.PLUGIN_KEYS[old]
            if new in taken:
                _notice(f"{where}.{old}", f"{where}.{new}")
                config[new] = config.pop(old)
    for key in list(config):
        _current_solver(config._get_node(key), f"{where}.{key}")


# -- checking ------------------------------------------------------------------------------------


def checked(config: DictConfig) -> DictConfig:
    """Return the configuration if every option exists and has the right type.

    Raises
    ------
    UserError
        For the first one that does not.
    """
    use_current_names(config)
    for key in sorted(OmegaConf.missing_keys(_unresolved(config))):
        raise UserError(f"{key}: missing; set {key}=VALUE")
    values = plain(config)
    check_group("solver", values.get("solver"))
    _check_logs(values["solver"])
    check_fields(values)
    _check_search(config, values["split"])
    parts = [group for group in GROUPS if group != "solver"]
    if reference_is_changed(config.hydra):
        parts.append("reference")
    for key in (*parts, "solver"):  # a solver last: it holds the log and other parts again
        options.check(key, values.get(key), _found)
    return config


def reference_is_changed(hydra_config: Any) -> bool:
    """Return whether an override may change `reference`; the suite's own needs no check.

    Most commands find all references in files: they need not import the reference solver, which
    takes a second.
    """
    return any("reference" in text for text in hydra_config.overrides.task)


def _lacks_log(solver: Mapping[str, Any]) -> bool:
    learner = solver.get("offline", solver)
    if not isinstance(learner, Mapping):
        return False
    return "logs" in learner and learner["logs"] is None and not learner.get("checkpoint")


def _check_logs(solver: Mapping[str, Any]) -> None:
    if _lacks_log(solver):
        there = ", ".join(sorted(members("logs")))
        raise UserError(f"logs: this solver learns from logs; type logs=NAME, one of {there}")


def _check_search(config: DictConfig, split: str) -> None:
    if not is_search(config):
        return
    if config.hydra.mode != RunMode.MULTIRUN:
        raise UserError("tuning: a search is a sweep; add -m")
    if split != "validation":
        raise UserError(
            f"split: hyperparameters are chosen with split=validation, not {split}; "
            "the test instances are for what was chosen, once"
        )


def _found(target: str) -> Any:
    try:
        return get_object(target)
    except CRASHES as error:
        raise UserError(f"_target_: {target} cannot be imported ({one_line(error)})") from error


def _unknown(key: str, config: Mapping[str, Any]) -> UserError:
    """Return the error for an option that does not exist; `config` holds those that do."""
    above, _, name = key.rpartition(".")
    steps = above.split(".") if above else []
    beside: Any = functools.reduce(lambda part, step: part.get(step) or {}, steps, config)
    there = (
        [one for one in beside if one not in options.SPECIAL] if isinstance(beside, Mapping) else []
    )
    if there and name in options.parameters(_found(beside.get("_target_", "builtins.dict"))):
        return UserError(f"{key}: is not set in the yaml; add it as +{key}=VALUE")
    return unknown(key, "Options:", name, there or list(flatten(config)))


# -- searches ------------------------------------------------------------------------------------


def is_search(config: DictConfig) -> bool:
    """Return whether the jobs of a sweep are suggested by the results of earlier jobs."""
    return bool(config.hydra.runtime.choices["hydra/sweeper"] != "basic")


def varied(config: DictConfig, overrides: Sequence[str]) -> dict[str, Override]:
    """Return parameter -> the values that it may take in a search.

    Raises
    ------
    UserError
        For a parameter that is no option of the solver, a value that the solver does not take, or
        no parameter at all.
    """
    found = {
        key: one for key, one in _parameters(config, overrides).items() if one.is_sweep_override()
    }
    for key, one in found.items():
        if not key.startswith("solver."):
            raise UserError(f"{key}: a search varies options of the solver only, such as solver.lr")
        if key not in values_of_solver(config):
            raise _unknown(key, plain(config))
        for value in _ends(one):
            changed = copy.deepcopy(config)
            OmegaConf.update(changed, key, value)
            build("solver", checked(changed).solver)
    if not found:
        raise UserError(
            "hydra.sweeper.params: a search needs parameters, such as solver.lr=interval(1e-4,1e-2)"
        )
    return found


def _parameters(config: DictConfig, overrides: Sequence[str]) -> dict[str, Override]:
    """Return option -> its last override: those of the search, then those of the command."""
    own = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    return {one.get_key_element(): one for one in parse([*own, *overrides])}


def _fixed(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Return the overrides that hold for every trial of a search."""
    parameters = _parameters(config, overrides).values()
    return [str(one.input_line) for one in parameters if not one.is_sweep_override()]


def _ends(one: Override) -> Iterator[Any]:
    """Yield the values of a choice, or the two ends of an interval."""
    value = one.value()
    if isinstance(value, IntervalSweep):
        yield from (value.start, value.end)
    else:
        yield from one.sweep_iterator(transformer=Transformer.encode)


# -- reading -------------------------------------------------------------------------------------


def build(where: str, config: Any) -> Any:
    """Instantiate a plug-in.

    Raises
    ------
    UserError
        For whatever its constructor objects to.
    """
    try:
        return instantiate(config, _convert_="all")
    except CRASHES as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{where}: {one_line(cause)}") from error


def config_of_solver(name: str) -> DictConfig:
    """Return the resolved configuration of a file of conf/solver, with its defaults list.

    Only a file with such a list, which rules do not have, is composed: that takes Hydra 0.2 s.

    Raises
    ------
    UserError
        Where the solver learns from a log, which a baseline has none of.
    """
    file = read("solver", name)
    if "defaults" not in file:
        values = plain(file)
    else:
        with contextlib.ExitStack() as stack:
            if not GlobalHydra.instance().is_initialized():
                stack.enter_context(hydra.initialize_config_dir(str(CONF), version_base="1.3"))
            values = plain(_compose([f"+solver={name}"]))["solver"]
    if _lacks_log(values):
        raise UserError(
            f"baselines: {name} learns from a log; run it by itself, +solver={name} logs=NAME"
        )
    return OmegaConf.create(values)


def name_of_solver(config: DictConfig, choices: Mapping[str, str]) -> str:
    """Return the solver's name: its file in conf/solver, else its class."""
    return choices.get("solver") or config.solver["_target_"].rsplit(".", 1)[-1].lower()


def values_of_solver(config: DictConfig) -> dict[str, Any]:
    """Return the solver's configuration, dotted option -> value."""
    return flatten({"solver": plain(config)["solver"]})


def plain(config: Any) -> dict[str, Any]:
    """Resolve a configuration to mappings and lists, without Hydra's part."""
    resolved = OmegaConf.to_container(_unresolved(config), resolve=True)
    return cast("dict[str, Any]", resolved)


def _unresolved(config: Any) -> DictConfig:
    """Return a configuration without Hydra's part."""
    values = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=False))
    values.pop("hydra", None)
    return OmegaConf.create(values)
