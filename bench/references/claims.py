"""Which claims of a solver are accepted.

Schedules are always verified. A bound, and with it an optimum, is accepted where a proof shows it
that the verifier has checked, or where one of the suite's own exact solvers found it in this
process. Every other claim is dropped from the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from bench import metrics
from bench.contracts import Plugin, Result
from bench.instance import Instance
from bench.references.own_solvers import is_own_exact_solver
from bench.references.reference import is_below
from bench.verify import verify
from bench.verify.problem import ExactObjective, ExactProblem
from bench.verify.proofs import proven_bound


def accepted(plugin: Plugin, instance: Instance, objective: str, result: Result) -> Result:
    """Return `result` without the claims that nobody has proven.

    Parameters
    ----------
    plugin
        What found the result. Its bounds count only if it declares `certifies`.
    objective
        What is minimised.
    """
    claims = result.status in ("optimal", "infeasible") or result.lower_bound > -math.inf
    if not claims or is_own_exact_solver(plugin):
        return result
    shown = -math.inf
    if plugin.certifies:
        shown = checked_bound(instance, objective, result.info.get("proof"))
    value = math.inf
    if not verify(instance, result.schedule):
        value = metrics.objective(instance, result.schedule, objective)
    optimal = result.status == "optimal" and math.isfinite(value) and not is_below(shown, value)
    bound = min(shown, value if optimal else result.lower_bound)
    status = "optimal" if optimal else "feasible" if math.isfinite(value) else "unknown"
    return replace(result, status=status, lower_bound=bound)


def checked_bound(instance: Instance, objective: str, proof: Any) -> float:
    """Return the bound that a proof shows, rounded down to a float; -inf where it shows none.

    Of a proof by search the proof at its root counts.
    """
    if isinstance(proof, Mapping) and proof.get("kind") == "search":
        proof = proof.get("root")
    if not isinstance(proof, Mapping) or "kind" not in proof:
        return -math.inf
    try:
        problem = ExactProblem(instance)
        shown = Fraction(proven_bound(problem, ExactObjective(problem, objective), proof))
        bound = float(shown)
    except (ValueError, TypeError, OverflowError, RecursionError):  # whatever is malformed in it
        return -math.inf
    return math.nextafter(bound, -math.inf) if Fraction(bound) > shown else bound
