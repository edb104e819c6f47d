"""The plug-ins there are: the files of conf/, found from a clone, an editable install and a wheel.

One yaml file in conf/GROUP is one plug-in. There is no list of them anywhere else.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from pathlib import Path
from typing import Any

from bench.contracts import Policy
from bench.errors import UserError

HERE = Path(__file__).parent
CONF = next(
    folder for folder in (HERE / "conf", HERE.parent / "conf") if (folder / "config.yaml").exists()
)
SOLVERS = (HERE.parent / "solvers").resolve()  # the folder of the suite's own package
GROUPS = ("solver", "dataset", "logs", "budget", "tracking")


def members(group: str) -> dict[str, str]:
    """Return name -> first line of comment, of every file of a group."""
    found = {}
    for path in (CONF / group).glob("*.yaml"):
        lines = path.read_text().splitlines()
        comments = [text[1:].strip() for text in lines if text.startswith("#")]
        found[path.stem] = next((text for text in comments if not text.startswith("@package")), "")
    return found


def load(group: str, name: str, /, **changes: Any) -> Any:
    """Build the plug-in of conf/GROUP/NAME.yaml with its own defaults list, outside of a run.

    Parameters
    ----------
    group, name
        Such as `solver`, `ppo`.
    changes
        Arguments that replace those of the file.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.utils import instantiate

    register_resolvers()
    chosen = [f"{'+' if group == 'solver' else ''}{group}={name}"]
    with contextlib.ExitStack() as stack:
        if not GlobalHydra.instance().is_initialized():
            stack.enter_context(hydra.initialize_config_dir(str(CONF), version_base="1.3"))
        config = hydra.compose("config", chosen)
    return instantiate(config[group], **changes, _convert_="all")


@functools.cache
def register_resolvers() -> None:
    """Register the interpolations that conf/ uses.

    `${instances_of:small}` is the data set of conf/dataset/small.yaml, for logs that were recorded
    on it; `${rules:}` the names of all dispatch rules.
    """
    from omegaconf import OmegaConf

    def instances_of(name: str) -> Any:
        return read("dataset", name)["dataset"]

    OmegaConf.register_new_resolver("instances_of", instances_of, replace=True)
    OmegaConf.register_new_resolver("rules", lambda: list(_rule_names(CONF)), replace=True)


def rules() -> dict[str, Policy]:
    """Return every dispatch rule that a yaml in conf/solver targets: name -> a new instance.

    A rule is a policy that declares `baseline = True`. Its yaml has no defaults list: files with
    one describe learners and planners, which are not imported here because that takes seconds.
    """
    from hydra.utils import instantiate

    return {name: instantiate(read("solver", name), _convert_="all") for name in _rule_names(CONF)}


@functools.cache
def _rule_names(conf: Path) -> tuple[str, ...]:
    """Return the names of the dispatch rules below `conf`, found once per process."""
    from hydra.utils import get_object, instantiate

    found = []
    for path in sorted((conf / "solver").glob("*.yaml")):
        name = path.stem
        config = read("solver", name)
        if "defaults" in config:
            continue
        with contextlib.suppress(ImportError):  # its own run says what is wrong with it
            rule = _is_rule(get_object(config["_target_"]))
            if rule and instantiate(config, _convert_="all").baseline:
                found.append(name)
    return tuple(found)


def read(group: str, name: str) -> Any:
    """Return the content of conf/GROUP/NAME.yaml, without what its defaults list names."""
    from omegaconf import OmegaConf

    return OmegaConf.load(CONF / group / f"{name}.yaml")


def _is_rule(plugin: Any) -> bool:
    return isinstance(plugin, type) and issubclass(plugin, Policy) and plugin.baseline


def pinned_hashes(name: str) -> dict[str, str]:
    """Return split -> the set hash that conf/dataset pins for the data set of this name.

    Empty where no file of the suite has a data set of this name, or its file pins none.
    """
    return _pinned_hashes(CONF).get(name, {})


@functools.cache
def _pinned_hashes(conf: Path) -> dict[str, dict[str, str]]:
    found = {}
    for path in sorted((conf / "dataset").glob("*.yaml")):
        dataset = read("dataset", path.stem).get("dataset", {})
        if "hashes" in dataset:
            found[str(dataset["name"])] = {
                str(split): str(digest) for split, digest in dataset["hashes"].items()
            }
    return found


def own_packages() -> None:
    """Check that `datasets` and `solvers`, both common names, are the suite's own packages.

    Raises
    ------
    UserError
        Saying what is found instead, and what to do.
    """
    for name in ("datasets", "solvers"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).parents[1] != HERE.parent:
            raise UserError(
                f"{name}: Python finds {spec.origin if spec else 'nothing'} under this name, not "
                "the suite's own package (Hugging Face's `datasets` has the same name); give the "
                "suite its own environment, or run from its folder"
            )
