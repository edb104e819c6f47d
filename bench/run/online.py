"""What makes a row say `online`: how a policy is played where information is online.

Only a `Policy` is played, because it is given observations and nothing else; in a process of its
own (`bench.run.isolated`), so that it can reach nothing else. After the run some of its episodes
are replayed with rewritten futures (`bench.non_anticipation`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from bench import non_anticipation
from bench.contracts import Budget, Policy, Result, Solver
from bench.errors import PolicyError
from bench.generators import without_seed
from bench.instance import Instance
from bench.rollout import Actor, LocalActor, as_solver, check_information, play
from bench.run.evaluation import Entry
from bench.run.isolated import IsolatedActor, PolicyProcess, pickled
from bench.run.job import Job
from bench.run.record import Record
from bench.setting import Setting


@dataclass(frozen=True)
class Information:
    """What the suite found out about the information of a run: fields of its record."""

    isolated: bool = False
    non_anticipation: str = "not applicable"

    def fields(self) -> Record:
        """Return the fields of the record."""
        return cast("Record", dict(vars(self)))


def entrant(trained: Any, job: Job) -> Solver:
    """Return the solver that a job runs: a policy is rolled out.

    Raises
    ------
    UserError
        If information is online and `trained` knows the future, or cannot be played in a process of
        its own.
    """
    check_information(job.solver, trained, job.setting)
    solver = as_solver(trained)
    if job.setting.information != "online":
        return solver
    return OnlinePlayer(trained, job.instances, job.isolate)


class OnlinePlayer(Solver):
    """Plays a policy that is given observations only, and checks that it does not anticipate.

    Parameters
    ----------
    policy
        The policy.
    instances
        Those that it is measured on.
    isolate
        Whether it decides in a process of its own.
    """

    def __init__(self, policy: Policy, instances: Sequence[Instance], isolate: bool) -> None:
        self.isolated = isolate
        self._process: PolicyProcess | None = None
        if isolate:
            self._snapshot = pickled(policy, instances)
            self._process = PolicyProcess(self._snapshot)
            self._actor: Actor = IsolatedActor(self._process, self._snapshot)
        else:
            self._unused = copy.deepcopy(policy)
            self._actor = LocalActor(policy)

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Play one episode; the budget does not bind."""
        return play(self._actor, instance, setting, without_seed(rng))

    def check(
        self,
        instances: Sequence[Instance],
        setting: Setting,
        rngs: Sequence[np.random.Generator],
        draw: np.random.Generator | None = None,
    ) -> non_anticipation.Outcome:
        """Replay the smallest instances with rewritten futures.

        In a process of its own this is a new session, which has not seen the episodes of the run.
        """
        smallest = sorted(range(len(instances)), key=lambda i: (instances[i].n_tasks, i))
        chosen = smallest[: non_anticipation.INSTANCES]
        return non_anticipation.check(
            self._new_copies(),
            [instances[i] for i in chosen],
            setting,
            [without_seed(rngs[i]) for i in chosen],
            draw,
        )

    def _new_copies(self) -> Callable[[], Actor]:
        """Return the function that returns the policy as it was before the run."""
        process = self._process
        if process is None:
            return lambda: LocalActor(copy.deepcopy(self._unused))
        process.start_session()

        def load() -> Actor:
            actor = IsolatedActor(process, self._snapshot)
            actor.load()
            return actor

        return load

    def close(self) -> None:
        """End the policy's process."""
        if self._process is not None:
            self._process.close()


def checked(solver: Solver, job: Job, entries: Sequence[Entry]) -> tuple[list[Entry], Information]:
    """Return the entries of a run and what its record says about information.

    Where a decision depends on the future, every entry has the error.
    """
    if not isinstance(solver, OnlinePlayer):
        return list(entries), Information()
    rngs = [np.random.default_rng([job.seed, i]) for i in range(len(job.instances))]
    try:
        found = solver.check(job.instances, job.setting, rngs)
    except PolicyError:  # its process is gone; the entries say why
        found = non_anticipation.Outcome("not reproducible")
    information = Information(solver.isolated, found.status)
    if found.status != "failed":
        return list(entries), information
    error = f"decisions depend on the future: {found.difference}"
    return [replace(entry, error=entry.error or error) for entry in entries], information


def close(solver: Solver) -> None:
    """End what the solver of a run has started."""
    if isinstance(solver, OnlinePlayer):
        solver.close()
