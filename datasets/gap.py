"""The generalised assignment problem: published files, and the recipes of their classes.

A file holds m n (agents and tasks), then m rows of n costs, m rows of n resource uses, m capacities
(separated by white space; rows may continue on the next line). Or, as gap1.txt of OR-Library, it
holds the number of problems first and then that many of them. Recipes: Chu & Beasley, Computers &
OR 24 (1997) for classes C and D; Laguna et al., EJOR 82 (1995) for class E.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from bench.contracts import Dataset
from bench.errors import UserError
from bench.instance import Instance, InstanceError, Ints
from datasets._files import find_files, other_files, without_gz
from datasets._random import DrawnInstances, instance_generator
from datasets._reading import Reading
from datasets._tables import parse_number, read_text

REQUIRED = (
    "GAP files (m n, costs, uses, capacities), e.g. gap1.txt to gap12.txt, gapa.txt to gapd.txt of "
    "OR-Library from http://people.brunel.ac.uk/~mastjjb/jeb/orlib/gapinfo.html"
)
LARGEST_NUMBER = 10**12
INTEGERS = re.compile(r"[\s0-9+-]*")  # what a file of integers consists of


class Gap(Dataset):
    """Problems in files as test split; train and validation are drawn in the same sizes.

    Parameters
    ----------
    path
        File or folder; None: the files in `downloads`.
    sense
        `min`: the first matrix holds costs, `max`: profits. Objectives are reported in that sense.
    pattern
        Shell pattern of the names of the files in a folder, with or without .gz. The published
        files have many kinds of names, so that by default all files are read but copies (such as
        `gap1.txt~`, `gap1.txt.bak`).
    max_tasks
        Problems with more tasks are left out. None: no limit.
    recipe
        Class (c, d or e) of the drawn problems.
    train, validation
        Number of drawn problems of each split.
    downloads, download_base
        Address of each file, after `download_base`, -> its SHA-256.

    Raises
    ------
    UserError
        When a file is missing, cut short or not numeric; the message names the file and the place.
    """

    def __init__(
        self,
        name: str = "gap",
        path: str | None = None,
        sense: str = "min",
        pattern: str = "*",
        max_tasks: int | None = None,
        recipe: str = "c",
        train: int = 256,
        validation: int = 16,
        downloads: Mapping[str, str] | None = None,
        download_base: str = "",
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        _check(sense, recipe)
        self.name = name
        self.path = path
        self.sense = sense
        self.pattern = pattern
        self.max_tasks = max_tasks
        self.recipe = recipe
        self.sizes = {"train": train, "validation": validation}
        self.downloads = dict(downloads or {})
        self.download_base = download_base
        self.hashes = dict(hashes or {})
        self._problems: list[Instance] | None = None

    def instances(self, split: str) -> Iterator[Instance]:
        """Yield the problems in the order of the file names (test), or draw problems lazily."""
        if self._problems is None:
            self._problems = self._read()
        if split == "test":
            yield from self._problems
            return
        for i in range(self.sizes[split]):
            like = self._problems[i % len(self._problems)]
            rng = instance_generator(split, i, 0)
            name = f"{self.name}-{split}-{i}"
            yield draw(self.recipe, like.n_agents, like.n_tasks, rng, self.sense, name)

    def _read(self) -> list[Instance]:
        files = find_files(self.path, self.downloads, REQUIRED, self.pattern, self.download_base)
        problems: dict[str, Instance] = {}
        sources: dict[str, Path] = {}
        for file in files:
            for problem in read_gap(file, self.sense):
                if problem.name in problems:
                    raise UserError(
                        f"dataset.path: value {self.path}: {sources[problem.name].name} and "
                        f"{file.name} both hold {problem.name}; delete one of them, or name a file"
                    )
                problems[problem.name] = problem
                sources[problem.name] = file
        reading = Reading(self.path or self.name, "problems")
        kept = [
            p for p in problems.values() if self.max_tasks is None or p.n_tasks <= self.max_tasks
        ]
        reading.use(len(kept))
        if len(kept) < len(problems):
            reading.leave_out(f"with more than {self.max_tasks} tasks", len(problems) - len(kept))
        if not kept:
            raise UserError(
                f"dataset.max_tasks: value {self.max_tasks}: none of {len(problems)} problems has "
                "at most that many tasks; raise it"
            )
        reading.ignore_files(other_files(self.path, files))
        reading.finish()
        return kept


class GapRecipe(DrawnInstances):
    """Problems drawn by a published recipe, without any file.

    Parameters
    ----------
    recipe
        Class of the problems: c, d or e.
    agents, tasks
        Size of the problems.
    sense
        `min` or `max`, see `Gap`.
    train, validation, test, seed, hashes
        See `DrawnInstances`.
    """

    def __init__(
        self,
        name: str,
        recipe: str = "c",
        agents: int = 5,
        tasks: int = 30,
        sense: str = "min",
        train: int | Literal["endless"] = 1024,
        validation: int = 32,
        test: int = 16,
        seed: int = 0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        _check(sense, recipe)
        super().__init__(name, train, validation, test, seed, hashes)
        self.recipe = recipe
        self.agents = agents
        self.tasks = tasks
        self.sense = sense

    def draw(self, split: str, i: int) -> Instance:
        """Draw problem i of the split."""
        rng = instance_generator(split, i, self.seed)
        name = f"{self.name}-{split}-{i}"
        return draw(self.recipe, self.agents, self.tasks, rng, self.sense, name)


def read_gap(path: Path, sense: str) -> list[Instance]:
    """Return the problems of one file.

    Raises
    ------
    UserError
        When the file is damaged; the message names the file and the place.
    """
    text = read_text(path)
    values = _integers(path, text)
    # A first line of one number is the number of problems, unless the file is one problem whose
    # m and n stand on separate lines: then the sizes account for all numbers.
    several = len(text.split("\n", 1)[0].split()) == 1 and (
        len(values) < 2 or len(values) != _length(*values[:2])
    )
    count = int(values[0]) if several and len(values) else 1
    at = 1 if several and len(values) else 0  # position of the next number
    problems: list[Instance] = []
    name = without_gz(path.name).removesuffix(".txt")
    for i in range(count):
        if len(values) < at + 2 or min(values[at : at + 2]) < 1:
            raise UserError(
                f"{path}: number {at + 1}: problem {i + 1} must begin with m n, agents and tasks, "
                "both at least 1"
            )
        m, n = (int(x) for x in values[at : at + 2])
        end = at + _length(m, n)
        if len(values) < end:
            raise UserError(
                f"{path}: cut short: problem {i + 1} ({m} x {n}) needs {end} numbers, "
                f"the file has {len(values)}"
            )
        matrices = values[at + 2 : end - m].reshape(2, m, n)
        label = f"{name}-{i + 1}" if several else name
        try:
            problem = build(matrices[0].T, matrices[1].T, values[end - m : end], sense, label)
        except InstanceError as error:
            raise UserError(f"{path}: problem {i + 1}: {error}") from None
        problems.append(problem)
        at = end
    if at != len(values) or not count:
        raise UserError(
            f"{path}: {len(values)} numbers, but its sizes account for {at}: not a GAP file, "
            "or a damaged one"
        )
    return problems


def build(cost: Ints, use: Ints, capacity: Ints, sense: str, name: str = "") -> Instance:
    """Return a problem as an instance with `budget` sharing and one agent type per agent.

    Internal costs are c + K (min) or K - c (max), with the smallest K that makes all costs at least
    1 (0 where `min` needs no shift).

    Parameters
    ----------
    cost, use
        Cost and resource use of each task on each agent, shape (N, M).
    capacity
        Capacity of each agent, shape (M,).
    """
    offset = int(cost.max()) + 1 if sense == "max" else max(0, 1 - int(cost.min()))
    return Instance(
        duration=offset - cost if sense == "max" else cost + offset,
        demand=use[:, :, None],
        capacity=np.asarray(capacity)[:, None],
        agent_type=np.arange(len(capacity)),
        sharing="budget",
        resources=("capacity",),
        sense=sense,
        offset=offset,
        name=name,
    )


def draw(
    recipe: str, m: int, n: int, rng: np.random.Generator, sense: str, name: str = ""
) -> Instance:
    """Draw one problem of class c, d or e with m agents and n tasks.

    The capacity of an agent is 0.8 * sum_j use_ij / m. Class c: use U[5, 25], cost U[10, 50].
    Class d: use U[1, 100], cost 111 - use + U[-10, 10]. Class e: use 1 - 10 ln U(0, 1], cost
    1000 / use - 10 U[0, 1], both rounded. Where very small problems need it, costs are shifted to
    at least 1 and capacities raised until every task fits on some agent alone.
    """
    u, v = rng.random((2, n, m))
    if recipe == "c":
        use = 5 + np.floor(21 * u)
        cost = 10 + np.floor(41 * v)
    elif recipe == "d":
        use = 1 + np.floor(100 * u)
        cost = 111 - use - 10 + np.floor(21 * v)
    else:
        # The logarithm of one number at a time is the same on every machine; np.log is not.
        exact = np.array([[1 - 10 * math.log(1 - x) for x in row] for row in u.tolist()])
        use = np.round(exact)
        cost = np.round(1000 / np.round(exact, 6) - 10 * v)
    capacity = np.maximum(np.floor(0.8 * use.sum(axis=0) / m), use.min(axis=1).max())
    cost += max(0, 1 - cost.min())
    return build(
        cost.astype(np.int64), use.astype(np.int64), capacity.astype(np.int64), sense, name
    )


def _length(m: int, n: int) -> int:
    """Return how many numbers a problem of m agents and n tasks has in a file."""
    return int(2 + 2 * m * n + m)


def _integers(path: Path, text: str) -> Ints:
    """Return all numbers of a file; a UserError names the line of the first invalid one."""
    if INTEGERS.fullmatch(text):
        try:
            return np.array(text.split(), dtype=np.int64)
        except (ValueError, OverflowError):
            pass
    for i, line in enumerate(text.splitlines(), 1):
        for token in line.split():
            value = parse_number(token, f"{path}: line {i}")
            if value != int(value) or abs(value) > LARGEST_NUMBER:
                raise UserError(
                    f"{path}: line {i}: value {token!r}: is not an integer of at most 12 digits"
                ) from None
    return np.array([int(float(token)) for token in text.split()], dtype=np.int64)


def _check(sense: str, recipe: str) -> None:
    if sense not in ("min", "max"):
        raise UserError(f"dataset.sense: value {sense!r}: must be min or max")
    if recipe not in ("c", "d", "e"):
        raise UserError(f"dataset.recipe: value {recipe!r}: must be c, d or e")
