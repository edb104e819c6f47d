"""Generalised advantage estimation against hand calculations."""

import pytest
import torch

from solvers.rl.advantages import gae


def flags(*steps: bool) -> torch.Tensor:
    """(S, 1)."""
    return torch.tensor(steps)[:, None]


def test_it_equals_a_hand_calculation():
    # three steps, the second terminates: A2 = 3 + .5 * 40 - 30; A1 = 2 - 20; A0 = 1 + .5 * 20 - 10 + .5 * .8 * A1
    reward, value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    following = torch.tensor([[20.0], [99.0], [40.0]])
    advantage = gae(
        reward, value, following, flags(False, True, False), flags(False, False, False), 0.5, 0.8
    )
    assert advantage.flatten().tolist() == pytest.approx([1 + 10 - 10 + 0.4 * -18, -18.0, -7.0])


def test_truncation_bootstraps_and_termination_does_not():
    reward, value, following = torch.zeros(2, 1), torch.zeros(2, 1), torch.full((2, 1), 7.0)
    no, first = flags(False, False), flags(True, False)
    assert gae(reward, value, following, first, no, 1.0, 1.0)[0].item() == 0.0
    assert gae(reward, value, following, no, first, 1.0, 1.0)[0].item() == 7.0


def test_neither_lets_the_next_episode_of_the_row_count():
    reward, zero, no, first = (
        torch.tensor([[1.0], [50.0]]),
        torch.zeros(2, 1),
        flags(False, False),
        flags(True, False),
    )
    assert gae(reward, zero, zero, first, no, 1.0, 1.0)[0].item() == 1.0
    assert gae(reward, zero, zero, no, first, 1.0, 1.0)[0].item() == 1.0
    assert gae(reward, zero, zero, no, no, 1.0, 1.0)[0].item() == 51.0


def test_lambda_goes_from_one_step_errors_to_whole_returns():
    reward, value = torch.rand(5, 3), torch.rand(5, 3)
    following = torch.cat([value[1:], torch.rand(1, 3)])
    no = torch.zeros(5, 3, dtype=torch.bool)
    torch.testing.assert_close(
        gae(reward, value, following, no, no, 0.9, 0.0), reward + 0.9 * following - value
    )
    whole = following[-1]
    for step in reversed(range(5)):
        whole = reward[step] + 0.9 * whole
    torch.testing.assert_close(gae(reward, value, following, no, no, 0.9, 1.0)[0], whole - value[0])
