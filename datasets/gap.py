"""The generalised assignment problem: files of OR-Library and Yagiura, and the recipes their classes were drawn by.

A file holds m n, then m rows of n costs, m rows of n resource uses, m capacities (whitespace separated, rows may wrap); or,
as OR-Library's gap1.txt, the number of problems first and then that many. Recipes: Chu & Beasley, Computers & OR 24 (1997)
for C and D; Laguna et al., EJOR 82 (1995) for E.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from bench.errors import UserError
from bench.instance import Instance, InstanceError, Ints
from datasets._files import find, number, read_text
from datasets._random import generator

NEED = (
    "GAP files (m n, costs, uses, capacities), e.g. OR-Library's gap1.txt to gap12.txt, gapa.txt to gapd.txt from "
    "http://people.brunel.ac.uk/~mastjjb/jeb/orlib/gapinfo.html"
)


class Gap:
    """Files as test split; train and validation are drawn by `recipe` in the same sizes.

    `pattern`: which files of a folder, by their name. `max_tasks`: leave larger problems out. `sense`: `min` takes the
    first matrix as costs, `max` as profits; original objectives are reported in that sense. `downloads`: URL -> SHA-256.

    Raises:
        UserError: for files that are missing, cut short or not numeric, naming the file and the place.
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
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        _check(sense, recipe)
        self.name, self.path, self.sense, self.pattern, self.max_tasks = (
            name,
            path,
            sense,
            pattern,
            max_tasks,
        )
        self.recipe, self.sizes = recipe, {"train": train, "validation": validation}
        self.downloads, self.hashes = dict(downloads or {}), dict(hashes or {})
        self._read: list[Instance] | None = None

    def instances(self, split: str) -> Iterator[Instance]:
        """`test`: the files' problems in the order of their names. Others: lazily drawn."""
        if self._read is None:
            self._read = self._files()
        if split == "test":
            yield from self._read
            return
        for i in range(self.sizes[split]):
            like = self._read[i % len(self._read)]
            yield draw(
                self.recipe,
                like.n_agents,
                like.n_tasks,
                generator(split, i, 0),
                self.sense,
                f"{self.name}-{split}-{i}",
            )

    def _files(self) -> list[Instance]:
        files = find(self.path, self.downloads, NEED, self.pattern)
        read = [problem for file in files for problem in read_gap(file, self.sense)]
        kept = [
            problem
            for problem in read
            if self.max_tasks is None or problem.n_tasks <= self.max_tasks
        ]
        if not kept:
            raise UserError(
                f"dataset.max_tasks: none of {len(read)} problems has at most {self.max_tasks} tasks; raise it"
            )
        return kept


class GapRecipe:
    """Problems drawn by a published recipe: no file needed."""

    def __init__(
        self,
        name: str,
        recipe: str = "c",
        agents: int = 5,
        tasks: int = 30,
        sense: str = "min",
        train: int = 1024,
        validation: int = 32,
        test: int = 16,
        seed: int = 0,
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        _check(sense, recipe)
        self.name, self.recipe, self.agents, self.tasks, self.sense, self.seed = (
            name,
            recipe,
            agents,
            tasks,
            sense,
            seed,
        )
        self.sizes = {"train": train, "validation": validation, "test": test}
        self.hashes = dict(hashes or {})

    def instances(self, split: str) -> Iterator[Instance]:
        """Instance i depends on (split, i, seed) alone."""
        for i in range(self.sizes[split]):
            rng = generator(split, i, self.seed)
            yield draw(
                self.recipe, self.agents, self.tasks, rng, self.sense, f"{self.name}-{split}-{i}"
            )


def read_gap(path: Path, sense: str) -> list[Instance]:
    """The problems of one file. Raises UserError naming the file and the place."""
    text = read_text(path)
    values = _whole(path, text)
    several = len(text.split("\n", 1)[0].split()) == 1 and (
        len(values) < 2 or len(values) != _length(*values[:2])
    )
    count, at, out = (int(values[0]), 1, []) if several and len(values) else (1, 0, [])
    name = path.name.removesuffix(".gz").removesuffix(".txt")
    for i in range(count):
        if len(values) < at + 2 or min(values[at : at + 2]) < 1:
            raise UserError(
                f"{path}: number {at + 1}: problem {i + 1} must begin with m n, agents and tasks, both at least 1"
            )
        m, n = (int(x) for x in values[at : at + 2])
        end = at + _length(m, n)
        if len(values) < end:
            raise UserError(
                f"{path}: cut short: problem {i + 1} ({m} x {n}) needs {end} numbers, the file has {len(values)}"
            )
        matrices = values[at + 2 : end - m].reshape(2, m, n)
        try:
            label = f"{name}-{i + 1}" if several else name
            out.append(build(matrices[0].T, matrices[1].T, values[end - m : end], sense, label))
        except InstanceError as error:
            raise UserError(f"{path}: problem {i + 1}: {error}") from None
        at = end
    if at != len(values) or not count:
        raise UserError(
            f"{path}: {len(values)} numbers, but its sizes account for {at}: not a GAP file, or a damaged one"
        )
    return out


def build(cost: Ints, use: Ints, capacity: Ints, sense: str, name: str = "") -> Instance:
    """Costs (N, M), uses (N, M), capacities (M,) as an instance with `budget` sharing and T = M.

    Internal costs are c + K (min) or K - c (max), K the smallest shift at which all are at least 1 (0 if min needs none).
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
    """One problem of class c, d or e with m agents and n tasks; capacity = 0.8 * sum_j use_ij / m.

    c: use U[5, 25], cost U[10, 50]. d: use U[1, 100], cost 111 - use + U[-10, 10]. e: use 1 - 10 ln U(0, 1], cost
    1000 / use - 10 U[0, 1], both rounded. Costs are shifted to at least 1, and capacities raised, where that is
    needed (very small problems), until every task fits somewhere alone.
    """
    u, v = rng.random((2, n, m))
    if recipe == "c":
        use, cost = 5 + np.floor(21 * u), 10 + np.floor(41 * v)
    elif recipe == "d":
        use = 1 + np.floor(100 * u)
        cost = 111 - use - 10 + np.floor(21 * v)
    else:
        exact = np.array(
            [[1 - 10 * math.log(1 - x) for x in row] for row in u.tolist()]
        )  # scalar log: same everywhere
        use, cost = np.round(exact), np.round(1000 / np.round(exact, 6) - 10 * v)
    capacity = np.maximum(np.floor(0.8 * use.sum(axis=0) / m), use.min(axis=1).max())
    cost += max(0, 1 - cost.min())
    return build(
        cost.astype(np.int64), use.astype(np.int64), capacity.astype(np.int64), sense, name
    )


def _length(m: int, n: int) -> int:
    return int(2 + 2 * m * n + m)


def _whole(path: Path, text: str) -> Ints:
    """All numbers of a file; UserError names the line of the first that is not a whole number."""
    try:
        return np.array(text.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    for i, line in enumerate(text.splitlines(), 1):
        for token in line.split():
            value = number(token, f"{path}: line {i}")
            if value != int(value) or abs(value) > 10**12:
                raise UserError(
                    f"{path}: line {i}: {token!r} is not a whole number of at most 12 digits"
                ) from None
    return np.array([int(float(token)) for token in text.split()], dtype=np.int64)


def _check(sense: str, recipe: str) -> None:
    if sense not in ("min", "max"):
        raise UserError(f"dataset.sense: {sense!r} must be min or max")
    if recipe not in ("c", "d", "e"):
        raise UserError(f"dataset.recipe: {recipe!r} must be c, d or e")
