"""The names of configuration keys, values and solvers that were renamed, old -> new.

Old names are accepted for one version: the command line translates them with a one-line notice, and
stored configurations are read under their new names, so that their settings hashes stay comparable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SINCE = "0.2"  # the version that renamed them; the next one drops the old names
SOLVERS = {"ppo_taught": "ppo_pretrained"}
KEYS = {  # keys of a run, at the top level of the configuration
    "events": "event_order",
    "ship": "update_references",
}
PLUGIN_KEYS = {  # keys of a solver or learner, at any depth below `solver`
    "averaging": "ema_decay",
    "envs": "num_envs",
    "lam": "gae_lambda",
    "lessons": "demonstrations",
    "rehearsals": "simulated_rollouts",
    "rounds": "message_passing_rounds",
    "start": "init_policy",
    "together": "num_envs",
}
VALUES = {  # key (by its new name) -> its renamed values
    "event_order": {"together": "batched", "singly": "sequential"},
}
MODULES = {  # modules that a user's own yaml files may target
    "datasets.imported_logs": "datasets.logs.imported",
    "datasets.recorded_logs": "datasets.logs.recorded",
    "solvers.imitation": "solvers.rl.imitation",
}


def current_key(path: str) -> str:
    """Translate a dotted configuration key.

    Parameters
    ----------
    path
        Such as `events`, `solver.lam` or `solver.imitation.together`.

    Returns
    -------
    str
        The key under its new name; `path` itself where nothing was renamed.
    """
    first, *rest = path.split(".")
    if not rest:
        return KEYS.get(first, first)
    if first != "solver":
        return path
    return ".".join([first, *(PLUGIN_KEYS.get(name, name) for name in rest)])


def current_value(key: str, value: Any) -> Any:
    """Translate a value of the key that is now called `key`."""
    return VALUES.get(key, {}).get(value, value) if isinstance(value, str) else value


def current_target(target: str) -> str:
    """Translate the dotted name of a class whose module was renamed."""
    module, _, name = target.rpartition(".")
    return f"{MODULES.get(module, module)}.{name}"


def current_plugin(config: Any) -> Any:
    """Translate the configuration of a solver: nested mappings and lists, keys and `_target_`."""
    if isinstance(config, list):
        return [current_plugin(value) for value in config]
    if not isinstance(config, Mapping):
        return config
    return {
        PLUGIN_KEYS.get(key, key): current_target(value)
        if key == "_target_" and isinstance(value, str)
        else current_plugin(value)
        for key, value in config.items()
    }


def current_setting(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the keys and values of a stored run's setting, or of its whole record."""
    named = {KEYS.get(key, key): value for key, value in setting.items()}
    return {key: current_value(key, value) for key, value in named.items()}
