"""The inputs of a run beside its configuration and its instances, by their content.

A run is identified by everything that can change its result: what a learner trains on, files and
folders that the solver's configuration names, logs, the dispatch rules that were found, and the
source of plug-ins that are not the suite's own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import plugins
from bench.contracts import Dataset, Learner, Plugin
from bench.files import file_hash
from bench.instance_set import split_hash
from bench.pretrained import checkpoint_file
from bench.protection import TRAINING_SPLITS
from bench.settings_hash import foreign_sources, loaded, plugin_settings, settings_hash

MAX_PATH = 4096  # characters; no file system takes more
POLICIES = ("checkpoint", "init_policy")  # options that may name a pretrained policy
FOLDER_WORDS = ("path", "folder", "dir", "file", "checkpoint")  # in the names of options


def inputs(plugin: Plugin, dataset: Dataset, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies the inputs of a run; kinds of which there are none are left out.

    Parameters
    ----------
    plugin, dataset
        Of the run.
    config
        The solver's configuration; empty where the plug-in was built in Python.
    """
    parts = [plugin, *(value for value in vars(plugin).values() if isinstance(value, Plugin))]
    named = [one for target in _targets(config) if (one := loaded(target)) is not None]
    classes = [*map(type, parts), *named]
    found: dict[str, Any] = {
        "files": dict(named_content(config)),
        "sources": foreign_sources(classes),
    }
    if isinstance(plugin, Learner):
        found["training"] = {split: split_hash(dataset, split) for split in TRAINING_SPLITS}
    if plugin.logs is not None:
        found["logs"] = plugin.logs.content()
    if any(one.uses_rules for one in parts) or any(map(_uses_rules, named)):
        rules = {name: plugin_settings(rule) for name, rule in plugins.rules().items()}
        found["rules"] = settings_hash(rules)
    return {kind: value for kind, value in found.items() if value}


def _uses_rules(named: Any) -> bool:
    return isinstance(named, type) and issubclass(named, Plugin) and named.uses_rules is True


def named_content(config: Any, option: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path as it is written, SHA-256) of each file and folder that a configuration names.

    `~` is expanded, and a relative path is one below the working folder. A string counts as a
    folder where it holds a separator, begins with `~`, or is the value of an option that is named
    like one (FOLDER_WORDS), so that a name such as `small` is none. Options that a class lists in
    `output_files` name what a run writes, and do not count.

    Parameters
    ----------
    option
        The name of the option whose value `config` is.
    """
    if isinstance(config, str):
        if (digest := _content(config, option)) is not None:
            yield config, digest
    elif isinstance(config, Mapping):
        written = getattr(loaded(str(config.get("_target_", ""))), "output_files", ())
        for key, value in config.items():
            if key != "_target_" and key not in written:
                yield from named_content(value, str(key))
    elif isinstance(config, Sequence) and not isinstance(config, bytes):
        for value in config:
            yield from named_content(value, option)


def _content(text: str, option: str) -> str | None:
    """Return the SHA-256 of what a string names: a file, or all files of a folder."""
    if not 0 < len(text) <= MAX_PATH or "\0" in text:
        return None
    try:
        path = checkpoint_file(text) if option in POLICIES else Path(text).expanduser()
        if path.is_file():
            return file_hash(path)
        folder = os.sep in text or text[0] == "~" or any(word in option for word in FOLDER_WORDS)
        return folder_hash(path) if folder and path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # no such user, a name that is too long
        return None


def folder_hash(folder: Path) -> str:
    """Return the SHA-256 over the names below a folder and the contents of the files."""
    digest = hashlib.sha256()
    entered: set[str] = set()
    for above, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(above)
        if place in entered:  # a symbolic link to a folder above
            folders.clear()
            continue
        entered.add(place)
        folders.sort()
        for name in sorted(names):
            path = Path(above, name)
            if path.is_file():
                digest.update(f"{path.relative_to(folder)}\0".encode("utf-8", "surrogateescape"))
                digest.update(bytes.fromhex(file_hash(path)))
    return digest.hexdigest()


def _targets(config: Any) -> Iterator[str]:
    """Yield every `_target_` in a nested configuration."""
    if isinstance(config, Mapping):
        if isinstance(target := config.get("_target_"), str):
            yield target
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _targets(value)
