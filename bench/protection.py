"""What plug-ins are given instead of the suite's own data: copies, and no test split to learn from.

A plug-in runs in the suite's own process, so frozen arrays and private names are conventions that
it can break. Therefore it never holds the instances by which it is scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from bench import instance_set
from bench.contracts import Budget, Dataset, Result, Solver
from bench.errors import UserError
from bench.instance import Instance
from bench.setting import Setting

TRAINING_SPLITS = ("train", "validation")


class AlteredInstance(Exception):
    """A plug-in changed an instance that it was given."""


def copy_of(instance: Instance) -> Instance:
    """Return an equal instance that shares no array with `instance`; nothing is checked again."""
    copied = object.__new__(type(instance))
    for field in fields(instance):
        value = getattr(instance, field.name)
        if isinstance(value, np.ndarray):
            value = value.copy()
            value.flags.writeable = False
        object.__setattr__(copied, field.name, value)
    return copied


def check_unaltered(instance: Instance, copied: Instance, plugin: str) -> None:
    """Check that `copied`, which a plug-in was given, still equals the instance.

    Parameters
    ----------
    plugin
        Names the plug-in in the error.

    Raises
    ------
    AlteredInstance
        Naming the first field that differs.
    """
    for field in fields(Instance):
        if not _same(getattr(instance, field.name), getattr(copied, field.name, None)):
            raise AlteredInstance(
                f"{plugin} changed {field.name} of instance {instance.name or 'without a name'}, "
                "which it was given: a plug-in must not change an instance; let it work on a copy"
            )


def solve_copy(
    solver: Solver,
    instance: Instance,
    setting: Setting,
    budget: Budget,
    rng: np.random.Generator,
    name: str,
) -> Result:
    """Let a solver solve a copy of an instance, which it must leave as it is.

    Parameters
    ----------
    name
        Names the solver in the error.

    Raises
    ------
    AlteredInstance
        Where it changed the copy.
    """
    copied = copy_of(instance)
    result = solver.solve(copied, setting, budget, rng)
    check_unaltered(instance, copied, name)
    return result


def _same(value: Any, other: Any) -> bool:
    if type(value) is not type(other):
        return False
    if isinstance(value, np.ndarray):
        return value.dtype == other.dtype and np.array_equal(value, other)
    return bool(value == other)


class TrainingData(Dataset):
    """The splits of a dataset that a learner may read: `train` and `validation`.

    It yields copies of the instances, the same ones at every call, where they are the pinned ones.

    Parameters
    ----------
    data
        The whole dataset.
    reader
        Names, in errors, who is given the data.

    Raises
    ------
    UserError
        In `instances`, for any other split, or where the instances are not the pinned ones.
    """

    def __init__(self, data: Dataset, reader: str) -> None:
        self.name = data.name
        self.hashes = dict(data.hashes)
        refused: list[str] = []
        copies: dict[str, list[tuple[Instance, Instance]]] = {}

        def instances(split: str) -> Iterator[Instance]:
            if split not in TRAINING_SPLITS:
                refused.append(split)
                raise UserError(_refusal(reader, split))
            if split not in copies:
                originals = list(data.instances(split))
                instance_set.check_pin(split, originals, data.hashes)
                copies[split] = [(one, copy_of(one)) for one in originals]
            return iter([copy for _, copy in copies[split]])

        def check() -> None:
            if refused:
                raise UserError(_refusal(reader, refused[0]))
            for pairs in copies.values():
                for instance, copy in pairs:
                    check_unaltered(instance, copy, reader)

        def training_instance(index: int) -> Instance:
            return copy_of(data.training_instance(int(index)))

        # closures: no attribute leads to the dataset
        self._instances = instances
        self._check = check
        self._training_instance = training_instance
        self.endless = data.endless

    def instances(self, split: str) -> Iterator[Instance]:
        """Return the instances of a training split."""
        return self._instances(split)

    def training_instance(self, index: int) -> Instance:
        """Return training instance `index` of an endless train split."""
        return self._training_instance(index)

    def check(self) -> None:
        """Check what was done with the data; called when the training has ended.

        Raises
        ------
        UserError
            Where another split was asked for, even if the error was caught.
        AlteredInstance
            Where an instance was changed.
        """
        self._check()


def _refusal(reader: str, split: str) -> str:
    return (
        f"dataset.instances: value {split!r}: {reader} asked for this split; what learns may read "
        f"{' and '.join(TRAINING_SPLITS)} only: train on one and select on the other"
    )
