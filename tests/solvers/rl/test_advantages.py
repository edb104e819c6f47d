"""Generalised advantage estimation and returns against hand calculations."""

import pytest
import torch

from solvers.rl.advantages import gae, group_advantages, returns_to_go


def flags(*steps: bool) -> torch.Tensor:
    """Return the steps of one environment, (S, 1)."""
    return torch.tensor(steps)[:, None]


def test_gae_equals_a_hand_calculation():
    # three steps, the second terminates:
    # A2 = 3 + .5 * 40 - 30; A1 = 2 - 20; A0 = 1 + .5 * 20 - 10 + .5 * .8 * A1
    reward, value = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    next_value = torch.tensor([[20.0], [99.0], [40.0]])
    advantage = gae(
        reward, value, next_value, flags(False, True, False), flags(False, False, False), 0.5, 0.8
    )
    assert advantage.flatten().tolist() == pytest.approx([1 + 10 - 10 + 0.4 * -18, -18.0, -7.0])


def test_truncation_bootstraps_and_termination_does_not():
    reward, value, next_value = torch.zeros(2, 1), torch.zeros(2, 1), torch.full((2, 1), 7.0)
    no, first = flags(False, False), flags(True, False)
    assert gae(reward, value, next_value, first, no, 1.0, 1.0)[0].item() == 0.0
    assert gae(reward, value, next_value, no, first, 1.0, 1.0)[0].item() == 7.0


def test_the_next_episode_of_a_row_does_not_count():
    reward, zero = torch.tensor([[1.0], [50.0]]), torch.zeros(2, 1)
    no, first = flags(False, False), flags(True, False)
    assert gae(reward, zero, zero, first, no, 1.0, 1.0)[0].item() == 1.0
    assert gae(reward, zero, zero, no, first, 1.0, 1.0)[0].item() == 1.0
    assert gae(reward, zero, zero, no, no, 1.0, 1.0)[0].item() == 51.0


def test_lambda_0_gives_one_step_errors_and_lambda_1_whole_returns():
    reward, value = torch.rand(5, 3), torch.rand(5, 3)
    next_value = torch.cat([value[1:], torch.rand(1, 3)])
    no = torch.zeros(5, 3, dtype=torch.bool)
    torch.testing.assert_close(
        gae(reward, value, next_value, no, no, 0.9, 0.0), reward + 0.9 * next_value - value
    )
    whole = next_value[-1]
    for step in reversed(range(5)):
        whole = reward[step] + 0.9 * whole
    torch.testing.assert_close(
        gae(reward, value, next_value, no, no, 0.9, 1.0)[0], whole - value[0]
    )


def test_returns_to_go_equal_a_hand_calculation():
    reward = torch.tensor([[1.0, 8.0], [2.0, 0.0], [4.0, 4.0]])
    expected = [[1 + 0.5 * (2 + 0.5 * 4), 8 + 0.25 * 4], [2 + 0.5 * 4, 0.5 * 4], [4.0, 4.0]]
    assert returns_to_go(reward, 0.5).tolist() == expected


def test_an_episode_is_compared_with_others_of_its_group_from_the_same_tick():
    # two groups of two; the costs of an episode are paid between its ticks
    tick = torch.tensor([[0, 0, 0, 5], [4, 2, 0, 5], [10, 10, 8, 7], [20, 12, 8, 9]])
    reward = -torch.tensor([[4.0, 2.0, 0.0, 0.0], [6.0, 8.0, 8.0, 2.0], [10.0, 2.0, 0.0, 2.0]])
    found = group_advantages(reward, tick, 2)
    # episode 0: 20 to pay from tick 0, 16 from 4, 10 from 10; episode 1: 12 from 0, 10 from 2, and
    # 1 a tick later until tick 12, after which nothing is left to pay
    assert found[:, 0].tolist() == [-20 + 12, -16 + 8, -10 + 2]
    assert found[:, 1].tolist() == [-12 + 20, -10 + 18, -2 + 10]
    # episode 2 pays 1 a tick until 8; episode 3 begins to decide at tick 5, with 4 to pay
    assert found[:2, 2].tolist() == [-8 + 4, -8 + 4]
    assert found[:, 3].tolist() == [-4 + 3, -4 + 3, -2 + 1]


def test_what_all_episodes_of_a_group_pay_is_no_advantage():
    tick = torch.arange(5)[:, None].expand(5, 6).contiguous()
    reward = -torch.rand(4, 1).expand(4, 6).contiguous()
    assert group_advantages(reward, tick, 3).abs().max() < 1e-6
