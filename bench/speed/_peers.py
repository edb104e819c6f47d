"""Exact solvers to compare with: HiGHS and SCIP on assignments, PyJobShop on schedules.

Each solves its textbook model of total time, with the default settings of the solver. Costs are
integers; the lower bounds are floats that the caller may round up.
"""

from __future__ import annotations

import math

import numpy as np

from bench.contracts import Budget, Result, Solver
from bench.instance import NOT_ELIGIBLE, Instance, Ints
from bench.schedule import Schedule
from bench.setting import Setting


class Highs(Solver):
    """HiGHS (Huangfu & Hall, Math. Prog. Comp. 10, 2018): branch and cut on an integer program."""

    tracks = ("assign",)

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Minimise sum c_ja x_ja with every task on one agent and every capacity kept.

        The search of HiGHS is almost sequential, so its wall-clock limit is the processor time that
        `budget` allows all threads together.
        """
        import highspy

        cost, use, capacity = _assignment(instance, setting)
        model = highspy.Highs()
        model.silent()
        model.setOptionValue("threads", budget.threads)
        model.setOptionValue("time_limit", budget.seconds * budget.threads)
        model.setOptionValue("mip_rel_gap", 0.0)
        model.setOptionValue("random_seed", int(rng.integers(2**31 - 1)))
        x = model.addBinaries(*cost.shape)
        model.addConstrs(x.sum(axis=1) == 1)
        for r in range(use.shape[2]):
            model.addConstrs((use[:, :, r] * x).sum(axis=0) <= capacity[:, r])
        model.minimize((cost * x).sum())
        info = model.getInfo()
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return Result(Schedule.empty(), "unknown", info.mip_dual_bound)
        agent = np.argmax(model.vals(x), axis=1)
        return Result(Schedule.from_assignment(instance, agent), "feasible", info.mip_dual_bound)


class Scip(Solver):
    """SCIP (Bolusani et al., SCIP Optimization Suite 9.0, 2024) on the same integer program."""

    tracks = ("assign",)

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Minimise sum c_ja x_ja with every task on one agent and every capacity kept.

        The standard build of SCIP has one thread. It gets the processor time that `budget` allows
        all threads together.
        """
        import pyscipopt

        cost, use, capacity = _assignment(instance, setting)
        model = pyscipopt.Model()
        model.hideOutput()
        model.setParams(
            {
                "timing/clocktype": 1,  # processor time
                "limits/time": budget.seconds * budget.threads,
                "limits/gap": 0.0,
                "randomization/randomseedshift": int(rng.integers(2**31 - 1)),
            }
        )
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
            return Result(Schedule.empty(), "unknown", bound)
        agent = np.argmax([[model.getVal(variable) for variable in row] for row in x], axis=1)
        return Result(Schedule.from_assignment(instance, agent), "feasible", bound)


class PyJobShop(Solver):
    """PyJobShop (Lan & Berkhout 2025) with OR-Tools.

    A task has one mode for every agent that can run it; the resources of an agent are renewable.
    """

    tracks = ("schedule",)

    def solve(
        self, instance: Instance, setting: Setting, budget: Budget, rng: np.random.Generator
    ) -> Result:
        """Minimise the weighted total flow time, sum w_j (C_j - r_j).

        Raises
        ------
        ValueError
            For another objective, `sharing=budget`, quotas or outages.
        """
        from pyjobshop import Model

        if (
            setting.objective != "total_time"
            or instance.sharing != "time"
            or instance.quota is not None
            or instance.outages
        ):
            raise ValueError(
                "PyJobShop: its model here is total time with `time` sharing, without quotas and "
                "outages"
            )
        model = Model()
        agent_of_mode = []
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
                duration = int(instance.duration[j, t])
                demand = instance.demand[j, t]
                if duration != NOT_ELIGIBLE and (demand <= instance.capacity[a]).all():
                    model.add_mode(task, units[a], duration, demand.tolist())
                    agent_of_mode.append(a)
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
            return Result(Schedule.empty(), "unknown", -math.inf)
        schedule = Schedule.from_assignment(
            instance,
            [agent_of_mode[task.mode] for task in tasks],
            [task.start for task in tasks],
        )
        return Result(schedule, "feasible", found.lower_bound)


def _assignment(instance: Instance, setting: Setting) -> tuple[Ints, Ints, Ints]:
    """Return costs (N, M), uses (N, M, R) and capacities (M, R) of an assignment problem.

    Raises
    ------
    ValueError
        For another track, quotas, or a task that is not eligible on some agent.
    """
    if (
        setting.track != "assign"
        or instance.quota is not None
        or (instance.duration == NOT_ELIGIBLE).any()
    ):
        raise ValueError(
            "HiGHS, SCIP: the model here is an assignment without quotas in which every task is "
            "eligible on every agent"
        )
    cost = instance.weight[:, None] * instance.duration[:, instance.agent_type]
    return cost, instance.demand[:, instance.agent_type], instance.capacity
