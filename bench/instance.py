"""The problem in matrix form: integer arrays, checked once when an instance is built, frozen after.

Symbols: N tasks, M agents, T agent types, R resources, U tenants. Times are ticks of `tick_seconds` seconds.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

SCHEMA = 1
KINDS = ("preprocess", "train", "inference", "deploy")
NOT_ELIGIBLE = -1
LARGEST = 10**12  # keeps every weighted sum of times inside int64

Ints = NDArray[np.int64]


class InstanceError(ValueError):
    """An instance that breaks a rule; the message names the field, the index and the rule."""


class Outage(NamedTuple):
    """Agent `agent` is away in [start, end), in ticks; `announced` outages are known in advance."""

    agent: int
    start: int
    end: int
    announced: bool = True


@dataclass(frozen=True, eq=False)
class Instance:
    """One scheduling problem R | r_j, size_j | sum w_j F_j with capacities, tenants and outages.

    Every array may be given as a nested list; it is checked, converted to int64 and made read-only.

    Raises:
        InstanceError: naming the field, the index and the rule that was broken.
    """

    duration: Ints  # (N, T) ticks p_jt >= 1 on an agent of type t, -1 = not eligible there
    demand: Ints  # (N, T, R) units of each resource that j holds on an agent of type t
    capacity: Ints  # (M, R) units each agent has
    agent_type: Ints  # (M,) type of each agent, in [0, T)
    release: Ints = None  # type: ignore[assignment]  # (N,) arrival tick r_j; default 0
    weight: Ints = None  # type: ignore[assignment]  # (N,) priority w_j >= 0; default 1
    due: Ints | None = None  # (N,) QoS deadline d_j, absolute tick
    tenant: Ints | None = None  # (N,) tenant of each task, in [0, U)
    quota: Ints | None = None  # (U, R) units a tenant's running tasks may hold, summed over agents
    kind: Ints = None  # type: ignore[assignment]  # (N,) index into KINDS; default "train"
    estimate: Ints = None  # type: ignore[assignment]  # (N, T) duration shown online; default `duration`
    outages: tuple[Outage, ...] = ()
    sharing: str = "time"  # "time": resources come back when a task ends; "budget": never (GAP)
    resources: tuple[str, ...] = ()  # (R,) names
    tick_seconds: float = 1.0
    sense: str = "min"  # sense of the original objective; "max" only with `budget` sharing
    offset: int = 0  # K of the cost mapping: c' = c + K (min) or c' = K - c (max)
    name: str = ""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema > SCHEMA:
            raise InstanceError(
                f"schema: {self.schema} is newer than {SCHEMA}, the newest this version reads; upgrade"
            )
        duration = self._array("duration", self.duration, 2)
        n, t = duration.shape
        if n == 0 or t == 0:
            raise InstanceError(
                f"duration: shape {duration.shape}, needs at least one task and one agent type"
            )
        demand = self._array("demand", self.demand, 3)
        r = demand.shape[2]
        capacity = self._array("capacity", self.capacity, 2)
        m = capacity.shape[0]
        if m == 0:
            raise InstanceError("capacity: needs at least one agent")
        self._array("agent_type", self.agent_type, 1)
        for field, default in (("release", 0), ("weight", 1), ("kind", KINDS.index("train"))):
            if getattr(self, field) is None:
                object.__setattr__(self, field, np.full(n, default, dtype=np.int64))
        if self.estimate is None:
            object.__setattr__(self, "estimate", duration)
        for field, ndim in (("release", 1), ("weight", 1), ("kind", 1), ("estimate", 2)):
            self._array(field, getattr(self, field), ndim)
        for field, ndim in (("due", 1), ("tenant", 1), ("quota", 2)):
            if getattr(self, field) is not None:
                self._array(field, getattr(self, field), ndim)
        object.__setattr__(self, "resources", self._checked_names(r))
        object.__setattr__(self, "outages", self._checked_outages())
        self._check_shapes(n, m, t, r)
        self._check_values()
        self._check_runnable()

    # -- sizes and derived facts ---------------------------------------------------------------------------

    @property
    def n_tasks(self) -> int:
        """N."""
        return self.duration.shape[0]

    @property
    def n_agents(self) -> int:
        """M."""
        return self.capacity.shape[0]

    @property
    def n_types(self) -> int:
        """T."""
        return self.duration.shape[1]

    @property
    def n_resources(self) -> int:
        """R."""
        return self.capacity.shape[1]

    @property
    def n_tenants(self) -> int:
        """U, 0 without quotas."""
        return 0 if self.quota is None else self.quota.shape[0]

    @property
    def may_kill(self) -> bool:
        """True where a running task can be caught by an outage: unannounced, or announced but its estimate was wrong."""
        wrong = not np.array_equal(self.estimate, self.duration)
        return bool(self.outages) and (
            wrong or any(not outage.announced for outage in self.outages)
        )

    def shortest(self) -> Ints:
        """(N,) ticks: min_t p_jt over the types on which some agent can run j alone."""
        times = np.where(self.runnable(), self.duration, np.iinfo(np.int64).max)
        return times.min(axis=1)

    def longest(self) -> Ints:
        """(N,) ticks: max_t p_jt over the types on which some agent can run j alone."""
        return np.where(self.runnable(), self.duration, 0).max(axis=1)

    def runnable(self) -> NDArray[np.bool_]:
        """(N, T): j is eligible on type t and at least one agent of t (and j's quota) covers its demand alone."""
        covered = np.zeros(self.duration.shape, dtype=bool)
        for t in range(self.n_types):
            for capacity in np.unique(self.capacity[self.agent_type == t], axis=0):
                covered[:, t] |= (self.demand[:, t] <= capacity).all(axis=-1)
        covered &= self.duration != NOT_ELIGIBLE
        if self.quota is not None:
            covered &= (self.demand <= self.quota[self.tenant][:, None, :]).all(axis=-1)
        return covered

    def original(self, value: float) -> float:
        """An internal (minimised) objective or bound in the instance's own sense and scale: undoes c' = c + K or K - c."""
        shift = self.offset * float(self.weight.sum())
        return shift - value if self.sense == "max" else value - shift

    def hash(self) -> str:
        """SHA-256 over all that defines the problem (not its name), as 64 hexadecimal digits."""
        payload = {key: value for key, value in self.to_dict().items() if key != "name"}
        return hashlib.sha256(
            json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()

    # -- JSON ----------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, ready for JSON; `from_dict` is its inverse."""
        out: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value = value.tolist()
            elif field.name == "outages":
                value = [outage._asdict() for outage in value]
            elif isinstance(value, tuple):
                value = list(value)
            out[field.name] = value
        return out

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Instance:
        """Build from `to_dict`'s form. Missing optional fields take their defaults; unknown ones are an error."""
        if not isinstance(data, Mapping):
            raise InstanceError(f"instance: a JSON object is needed, got {type(data).__name__}")
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise InstanceError(
                f"{unknown[0]}: unknown field; known are {', '.join(sorted(known))}"
            )
        for name in ("duration", "demand", "capacity", "agent_type"):
            if data.get(name) is None:
                raise InstanceError(f"{name}: missing")
        schema = data.get("schema", SCHEMA)
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise InstanceError(f"schema: a whole number of at least 1 is needed, got {schema!r}")
        if schema > SCHEMA:
            raise InstanceError(
                f"schema: {schema} is newer than {SCHEMA}, the newest this version reads; upgrade"
            )
        return cls(**{key: value for key, value in data.items() if value is not None})

    def write(self, path: str | Path) -> None:
        """Write JSON (gzip where the name ends in .gz)."""
        write_json(path, self.to_dict())

    @classmethod
    def read(cls, path: str | Path) -> Instance:
        """Read JSON written by `write` or by hand. Raises InstanceError naming the file, OSError where there is none."""
        try:
            return cls.from_dict(read_json(path))
        except InstanceError as error:
            raise InstanceError(f"{path}: {error}") from None

    # -- checks --------------------------------------------------------------------------------------------

    def _array(self, field: str, value: ArrayLike, ndim: int) -> Ints:
        array = whole_numbers(field, value, ndim)
        array.flags.writeable = False
        object.__setattr__(self, field, array)
        return array

    def _checked_names(self, r: int) -> tuple[str, ...]:
        if not isinstance(self.resources, list | tuple) or not all(
            isinstance(name, str) for name in self.resources
        ):
            raise InstanceError(f"resources: a list of names is needed, got {self.resources!r}")
        return tuple(self.resources) or tuple(f"resource{i}" for i in range(r))

    def _checked_outages(self) -> tuple[Outage, ...]:
        out = []
        if not isinstance(self.outages, list | tuple):
            raise InstanceError(
                f"outages: a list of (agent, start, end, announced) is needed, got {self.outages!r}"
            )
        for i, raw in enumerate(self.outages):
            try:
                outage = Outage(**raw) if isinstance(raw, Mapping) else Outage(*raw)
            except TypeError:
                raise InstanceError(
                    f"outages[{i}]: needs agent, start, end and optionally announced"
                ) from None
            numbers = whole_numbers(f"outages[{i}]", outage[:3], 1)
            if not isinstance(outage.announced, bool):
                raise InstanceError(
                    f"outages[{i}].announced: true or false is needed, got {outage.announced!r}"
                )
            agent, start, end = (int(x) for x in numbers)
            if not 0 <= agent < len(self.capacity):
                raise InstanceError(
                    f"outages[{i}].agent: {agent} is outside [0, {len(self.capacity)})"
                )
            if not 0 <= start < end:
                raise InstanceError(f"outages[{i}]: [{start}, {end}) must satisfy 0 <= start < end")
            out.append(Outage(agent, start, end, outage.announced))
        out.sort(key=lambda outage: outage[:3])
        for before, after in itertools.pairwise(out):
            if before.agent == after.agent and after.start < before.end:
                raise InstanceError(
                    f"outages: two overlap on agent {after.agent} at tick {after.start}; merge them"
                )
        return tuple(out)

    def _check_shapes(self, n: int, m: int, t: int, r: int) -> None:
        u = 0 if self.quota is None else len(self.quota)
        expected = {
            "demand": (n, t, r), "capacity": (m, r), "agent_type": (m,), "release": (n,), "weight": (n,),
            "due": (n,), "tenant": (n,), "quota": (u, r), "kind": (n,), "estimate": (n, t),
        }  # fmt: skip
        for field, shape in expected.items():
            value = getattr(self, field)
            if value is not None and value.shape != shape:
                raise InstanceError(f"{field}: shape {value.shape}, expected {shape}")
        if len(self.resources) != r or len(set(self.resources)) != r:
            raise InstanceError(f"resources: {list(self.resources)} must be {r} different names")

    def _check_values(self) -> None:
        for field in ("duration", "estimate"):
            value = getattr(self, field)
            _rule(
                field,
                value,
                (value >= 1) | (value == NOT_ELIGIBLE),
                "must be at least 1, or exactly -1 (not eligible)",
            )
        same = (self.estimate == NOT_ELIGIBLE) == (self.duration == NOT_ELIGIBLE)
        _rule("estimate", self.estimate, same, "must be -1 exactly where duration is -1")
        for field in ("demand", "capacity", "release", "weight", "due", "tenant", "quota"):
            value = getattr(self, field)
            if value is not None:
                _rule(field, value, value >= 0, "must not be negative")
        _rule("agent_type", self.agent_type, (self.agent_type >= 0) & (self.agent_type < self.n_types),
              f"must be a type in [0, {self.n_types})")  # fmt: skip
        _rule(
            "kind",
            self.kind,
            (self.kind >= 0) & (self.kind < len(KINDS)),
            f"must be in [0, {len(KINDS)}): {KINDS}",
        )
        if self.quota is not None:
            if self.tenant is None:
                raise InstanceError("tenant: needed where quota is given")
            _rule(
                "tenant",
                self.tenant,
                self.tenant < self.n_tenants,
                f"must be in [0, {self.n_tenants}), a row of quota",
            )
        if self.sharing not in ("time", "budget"):
            raise InstanceError(f"sharing: {self.sharing!r} must be 'time' or 'budget'")
        if self.sense not in ("min", "max"):
            raise InstanceError(f"sense: {self.sense!r} must be 'min' or 'max'")
        if not isinstance(self.offset, int) or isinstance(self.offset, bool):
            raise InstanceError(f"offset: a whole number is needed, got {self.offset!r}")
        tick = self.tick_seconds
        if isinstance(tick, bool) or not isinstance(tick, int | float) or not 0 < tick <= LARGEST:
            raise InstanceError(f"tick_seconds: a positive number is needed, got {tick!r}")
        if self.sharing == "budget":
            if self.release.any():
                raise InstanceError("release: must be 0 with `budget` sharing, which has no clock")
            if self.due is not None or self.outages:
                raise InstanceError(
                    "due, outages: must be absent with `budget` sharing, which has no clock"
                )
        elif self.sense != "min" or self.offset:
            raise InstanceError(
                "sense, offset: only `budget` sharing maps costs; `time` sharing needs 'min' and 0"
            )

    def _check_runnable(self) -> None:
        stuck = np.flatnonzero(~self.runnable().any(axis=1))
        if len(stuck):
            raise InstanceError(
                f"demand[{stuck[0]}]: no agent can run task {stuck[0]}: every type is either not eligible or has no agent "
                "(and quota) that covers the demand"
            )


def whole_numbers(field: str, value: ArrayLike, ndim: int) -> Ints:
    """`value` as a new int64 array of `ndim` dimensions; InstanceError naming field and index for anything else."""
    try:
        raw = np.array(value)
    except ValueError:
        raise InstanceError(f"{field}: rows of different length") from None
    if raw.size == 0:
        raw = raw.astype(np.int64)
    if raw.ndim != ndim:
        raise InstanceError(f"{field}: needs {ndim} dimensions, got {raw.ndim}")
    if raw.dtype.kind == "f":
        _rule(field, raw, np.isfinite(raw), "must be a number")
        _rule(field, raw, raw == np.floor(raw), "must be a whole number")
    elif raw.dtype.kind not in "iu":
        raise InstanceError(f"{field}: whole numbers are needed, got {raw.dtype}")
    _rule(field, raw, np.abs(raw) <= LARGEST, f"must not exceed {LARGEST} in size")
    return raw.astype(np.int64)


def _rule(field: str, value: NDArray[Any], holds: NDArray[np.bool_], rule: str) -> None:
    if not holds.all():
        index = tuple(int(i) for i in np.argwhere(~holds)[0])
        where = ", ".join(map(str, index))
        raise InstanceError(f"{field}[{where}]: {value[index]} {rule}")


def read_json(path: str | Path) -> Any:
    """Parse a JSON file, gzip or plain. Raises InstanceError where it is cut short or no JSON, OSError where there is none."""
    raw = Path(path).read_bytes()
    try:
        return json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except (ValueError, EOFError, OSError, zlib.error, RecursionError) as error:
        raise InstanceError(f"not readable as JSON ({error}); the file may be cut short") from None


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON so that a killed run never leaves half a file; gzip (with a fixed time stamp) where the name ends in .gz."""
    path = Path(path)
    raw = json.dumps(data, separators=(",", ":")).encode()
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
    partial.replace(path)
