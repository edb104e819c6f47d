"""The one hash of settings: what makes two runs, logs or rows of a table the same configuration."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.contracts import Plugin
from bench.files import file_hash
from bench.renamed import current_plugin

OWN = ("bench", "datasets", "solvers")  # the suite's packages
ROOT = Path(__file__).resolve().parents[1]


def settings_hash(settings: Any, length: int = 16) -> str:
    """Hash nested settings by their content.

    A class of the suite counts by its name alone (`_target_: solvers.ppo.PPO` as `PPO`), so that
    moving a module changes no hash; any other class counts by its full path. Renamed keys count
    under their new names (`bench.renamed`).

    Parameters
    ----------
    settings
        Nested mappings and lists of JSON values; anything else counts by its `str`.
    length
        Number of hexadecimal digits, at most 64.

    Returns
    -------
    str
        The first `length` digits of the SHA-256 of the canonical JSON.
    """
    text = json.dumps(_canonical(current_plugin(settings)), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _canonical(settings: Any) -> Any:
    """Reduce each `_target_` of the suite to the name of its class; make tuples lists."""
    if isinstance(settings, Mapping):
        return {
            str(key): _name(value)
            if key == "_target_" and isinstance(value, str)
            else _canonical(value)
            for key, value in settings.items()
        }
    if isinstance(settings, list | tuple):
        return [_canonical(value) for value in settings]
    return settings


def _name(target: str) -> str:
    module, _, name = target.rpartition(".")
    return name if not module or _is_own(module) else target


def _is_own(module: str) -> bool:
    """Return whether a module is the suite's own.

    One that was added to the suite's packages from another folder is not.
    """
    if module.split(".")[0] not in OWN:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or Path(file).resolve().is_relative_to(ROOT)


def loaded(target: str) -> Any:
    """Return what the dotted name of a `_target_` stands for; None where it is not imported."""
    parts = target.split(".")
    for i in range(len(parts) - 1, 0, -1):
        if (found := sys.modules.get(".".join(parts[:i]))) is not None:
            value: Any = found
            for part in parts[i:]:
                value = getattr(value, part, None)
            return value
    return None


def foreign_sources(plugins: Iterable[Any]) -> dict[str, str]:
    """Return module -> SHA-256 of its source, of all classes that are not the suite's own.

    Parameters
    ----------
    plugins
        Classes, with which those count that they derive from, and functions.
    """
    modules = set()
    for plugin in plugins:
        for one in inspect.getmro(plugin) if inspect.isclass(plugin) else [plugin]:
            module = getattr(one, "__module__", None)
            if isinstance(module, str) and _is_foreign(module):
                modules.add(module)
    return {module: _source(module) for module in sorted(modules)}


def _is_foreign(module: str) -> bool:
    return module.split(".")[0] not in sys.stdlib_module_names and not _is_own(module)


def _source(module: str) -> str:
    """Return the SHA-256 of a module's file; empty where it has none, as in a notebook."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not Path(file).is_file():
        return ""
    return file_hash(Path(file))


def plugin_settings(value: Any) -> Any:
    """Return a plug-in as [class name, {attribute: plain value}] for a hash.

    Private attributes do not count. A class that is not the suite's own counts by its full path and
    the content of its source file.
    """
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plugin_settings(one) for one in value]
    if isinstance(value, Plugin):
        attributes: Mapping[Any, Any] = value.hashed_settings()
    else:
        attributes = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    public = {
        str(key): plugin_settings(one) for key, one in attributes.items() if str(key)[0] != "_"
    }
    kind = type(value)
    if not _is_foreign(kind.__module__):
        return [kind.__name__, public]
    return [f"{kind.__module__}.{kind.__qualname__}", public, foreign_sources([kind])]
