"""Other exact solvers as `Solver`s: HiGHS and SCIP on assignments, PyJobShop on schedules, total time as objective.

Each gets the textbook model and its own default settings. Costs are whole; rounding bounds up is left to the caller.
"""

from __future__ import annotations

import math

import numpy as np

from bench.contracts import Budget, Result
from bench.instance import NOT_ELIGIBLE, Instance, Ints
from bench.schedule import Schedule
from bench.setting import Setting

NOTHING = Schedule([], [], [], [])  # type: ignore[arg-type]


class Highs:
    """HiGHS (Huangfu & Hall, Math. Prog. Comp. 10, 2018): branch and cut on the integer program of the assignment problem."""

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Minimise sum c_ja x_ja with every task on one agent and every capacity kept.

        Its search is all but sequential, so it may run by the wall clock for what `budget` allows all threads together.
        """
        import highspy

        cost, use, capacity = _assignment(instance, setting)
        model = highspy.Highs()
        model.silent()
        options = {"threads": budget.threads, "time_limit": budget.seconds * budget.threads, "mip_rel_gap": 0.0,
                   "random_seed": int(rng.integers(2**31 - 1))}  # fmt: skip
        for option, value in options.items():
            model.setOptionValue(option, value)
        x = model.addBinaries(*cost.shape)
        model.addConstrs(x.sum(axis=1) == 1)
        for r in range(use.shape[2]):
            model.addConstrs((use[:, :, r] * x).sum(axis=0) <= capacity[:, r])
        model.minimize((cost * x).sum())
        info = model.getInfo()
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return Result(NOTHING, "unknown", info.mip_dual_bound)
        agent = np.argmax(model.vals(x), axis=1)
        return Result(Schedule.from_assignment(instance, agent), "feasible", info.mip_dual_bound)


class Scip:
    """SCIP (Bolusani et al., SCIP Optimization Suite 9.0, 2024): branch, cut and price on the same integer program."""

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Minimise sum c_ja x_ja with every task on one agent and every capacity kept.

        Its standard build has one thread, which gets the processor time that `budget` allows all threads together.
        """
        import pyscipopt

        cost, use, capacity = _assignment(instance, setting)
        model = pyscipopt.Model()
        model.hideOutput()
        model.setParams({"timing/clocktype": 1, "limits/time": budget.seconds * budget.threads, "limits/gap": 0.0,
                         "randomization/randomseedshift": int(rng.integers(2**31 - 1))})  # fmt: skip
        x = [[model.addVar(vtype="B", obj=c) for c in row] for row in cost.tolist()]
        for row in x:
            model.addCons(pyscipopt.quicksum(row) == 1)
        for a, r in np.ndindex(capacity.shape):
            held = pyscipopt.quicksum(
                units * row[a] for units, row in zip(use[:, a, r].tolist(), x, strict=True)
            )
            model.addCons(held <= int(capacity[a, r]))
        model.optimize()
        bound = model.getDualbound()
        if model.getNSols() == 0:
            return Result(NOTHING, "unknown", bound)
        agent = np.argmax([[model.getVal(variable) for variable in row] for row in x], axis=1)
        return Result(Schedule.from_assignment(instance, agent), "feasible", bound)


class PyJobShop:
    """PyJobShop (Lan & Berkhout 2025) over OR-Tools: a mode for every agent that can run a task, renewable resources."""

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Minimise the weighted total flow time, sum w_j (C_j - r_j)."""
        from pyjobshop import Model

        if (
            setting.objective != "total_time"
            or instance.sharing != "time"
            or instance.quota is not None
            or instance.outages
        ):
            raise ValueError(
                "peers: total time with `time` sharing, no quotas and no outages is all they are asked here"
            )
        model, choices = Model(), []
        units = [
            [model.add_renewable(capacity) for capacity in row]
            for row in instance.capacity.tolist()
        ]
        for j in range(instance.n_tasks):
            job = model.add_job(
                weight=int(instance.weight[j]), release_date=int(instance.release[j])
            )
            task = model.add_task(job)
            for a, t in enumerate(instance.agent_type.tolist()):
                if (
                    instance.duration[j, t] != NOT_ELIGIBLE
                    and (instance.demand[j, t] <= instance.capacity[a]).all()
                ):
                    model.add_mode(
                        task, units[a], int(instance.duration[j, t]), instance.demand[j, t].tolist()
                    )
                    choices.append(a)
        model.set_objective(weight_total_flow_time=1)
        found = model.solve(
            "ortools",
            time_limit=budget.seconds,
            display=False,
            num_workers=budget.threads,
            random_seed=int(rng.integers(2**31 - 1)),
        )
        tasks = found.best.tasks
        if not tasks:
            return Result(NOTHING, "unknown", -math.inf)
        schedule = Schedule.from_assignment(
            instance, [choices[task.mode] for task in tasks], [task.start for task in tasks]
        )
        return Result(schedule, "feasible", found.lower_bound)


def _assignment(instance: Instance, setting: Setting) -> tuple[Ints, Ints, Ints]:
    """Costs (N, M), uses (N, M, R) and capacities (M, R)."""
    if (
        setting.track != "assign"
        or instance.quota is not None
        or (instance.duration == NOT_ELIGIBLE).any()
    ):
        raise ValueError(
            "peers: an assignment without quotas, every task eligible everywhere, is all they are asked here"
        )
    cost = instance.weight[:, None] * instance.duration[:, instance.agent_type]
    return cost, instance.demand[:, instance.agent_type], instance.capacity
