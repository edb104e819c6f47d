"""Sequences resampled from a part of a trace."""

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.errors import UserError
from bench.instance_set import check
from datasets.swf import Swf
from datasets.swf_resampled import SwfResampled
from tests.datasets.test_swf import CONF, row, write

GAPS = [3, 1, 4, 1, 5, 9, 2, 6]
RUNS = [70, 20, 90, 40, 10, 60, 30, 80]


@pytest.fixture
def trace(tmp_path):
    """Return a trace of 40 jobs on 8 processors.

    Job k needs 1 + k mod 8 processors. The run times of the first twenty jobs repeat a pattern,
    those of the others are 5000 s.
    """
    submit = np.cumsum([GAPS[k % 8] for k in range(40)])
    lines = [
        row(submit[k], RUNS[k % 8] if k < 20 else 5000, 1 + k % 8, 1 + k % 8, 100)
        for k in range(40)
    ]
    return Swf("t", {}, str(write(tmp_path, "\n".join(["; MaxProcs: 8", *lines]))))


def resampled(trace, **changes):
    given = {
        "fitted": [0, 20],
        "jobs": {"train": 25, "test": 30},
        "sizes": {"train": 6, "test": 3},
        "block": 8,
        "stretch": 0.0,
    }
    return SwfResampled("r", trace, **(given | changes))


def test_blocks_keep_gaps_run_times_and_processors_together(trace):
    for instance in resampled(trace).instances("train"):
        assert instance.n_tasks == 25
        kind = instance.demand[:, 0, 0] - 1  # k mod 8: the index in the pattern
        assert instance.duration[:, 0].tolist() == [RUNS[k] for k in kind]
        assert np.diff(instance.release).tolist() == [GAPS[k] for k in kind[1:]]
        within = [kind[i + 1] == (kind[i] + 1) % 8 for i in range(24) if (i + 1) % 8]
        assert all(within)


def test_only_the_fitted_part_of_the_trace_is_used(trace):
    assert max(i.duration.max() for i in resampled(trace).instances("train")) < 5000
    assert (
        max(i.duration.max() for i in resampled(trace, fitted=[20, 40]).instances("train")) == 5000
    )


def test_the_same_seed_split_and_index_give_the_same_sequence(trace):
    first, again = (list(resampled(trace).instances("train")) for _ in range(2))
    assert [i.hash() for i in first] == [i.hash() for i in again]
    others = [*resampled(trace).instances("test"), *resampled(trace, seed=1).instances("train")]
    assert len({i.hash() for i in [*first, *others]}) == 15


def test_run_times_are_stretched_within_bounds(trace):
    [plain, *_], [wide, *_] = (
        list(resampled(trace, stretch=e).instances("test")) for e in (0.0, 0.5)
    )
    ratio = wide.duration[:, 0] / np.array([RUNS[k] for k in wide.demand[:, 0, 0] - 1])
    assert ratio.min() > 0.6
    assert ratio.max() < 1.55
    assert ratio.std() > 0.1
    assert (plain.estimate == 100).all()


@pytest.mark.parametrize("fitted", [[0, 50], [5, 5], [0, 8], [-1, 20]])
def test_a_part_outside_of_the_trace_is_a_user_error(trace, fitted):
    with pytest.raises(UserError, match=r"dataset\.fitted: value \["):
        list(resampled(trace, fitted=fitted).instances("train"))


@pytest.mark.external
def test_the_configured_sequences_are_pinned(external):
    config = OmegaConf.load(CONF / "lublin1_resampled.yaml")
    config.dataset.trace.path = str(external / "swf" / "lublin_256.swf.gz")
    data = instantiate(config.dataset)
    for split in ("validation", "test"):
        assert check(split, data.instances(split), data.hashes) == data.hashes[split]
    [first, *_] = data.instances("test")
    assert first.n_tasks == 1024
