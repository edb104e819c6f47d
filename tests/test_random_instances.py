"""Random instances with edge cases: all ways to solve or play them agree with the verifier."""

import pytest

from tests.agreement import check_batches, check_seed

CHUNK = 15
LONG_CHUNK = 250


def check_seeds(seeds: range) -> None:
    """Check every seed, alone and in a batch; name the seed that fails."""
    for seed in seeds:
        try:
            check_seed(seed)
        except Exception as error:
            error.add_note(f"seed {seed} of tests.agreement.check_seed")
            raise
    check_batches(seeds)


@pytest.mark.parametrize("first", range(0, 150, CHUNK))
def test_150_instances_agree(first: int) -> None:
    check_seeds(range(first, first + CHUNK))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 10_000, LONG_CHUNK))
def test_10000_instances_agree(first: int) -> None:
    check_seeds(range(first, first + LONG_CHUNK))
