"""Generators of random numbers in the state of another one, without the seed it was made from."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np


def state_of(rng: np.random.Generator) -> tuple[str, Mapping[str, Any], int]:
    """Return the arguments with which `generator` returns one of the same numbers.

    They are the name of the bit generator's class, its state, and a seed for what is spawned, which
    depends on the state alone.
    """
    state = rng.bit_generator.state
    return (
        type(rng.bit_generator).__name__,
        state,
        int.from_bytes(pickle.dumps(state)[-32:], "little"),
    )


def generator(kind: str, state: Mapping[str, Any], seed: int) -> np.random.Generator:
    """Return the generator of a bit generator's class name and state; `seed` seeds what it spawns.

    It tells nothing but its numbers: the seed that the suite made it from is not in it.
    """
    bits = getattr(np.random, kind)(np.random.SeedSequence(seed))
    bits.state = state
    return np.random.Generator(bits)


def without_seed(rng: np.random.Generator) -> np.random.Generator:
    """Return a generator of the same numbers that does not hold the seed it was made from.

    A policy could read the number of its instance from the seed.
    """
    return generator(*state_of(rng))
