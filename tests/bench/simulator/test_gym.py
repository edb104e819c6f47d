"""The Gymnasium environment: Gymnasium's checker, action masks, ends of episodes, returns."""

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from bench import metrics
from bench.instance import Instance, Outage
from bench.setting import Setting
from bench.simulator import IllegalAction
from bench.simulator.gym import ENV_ID, MAX_TICKS

SMALL = Instance(
    duration=[[4, 2], [-1, 3], [5, 5]],
    demand=np.ones((3, 2, 1)),
    capacity=[[1], [2]],
    agent_type=[0, 1],
    release=[0, 0, 7],
    due=[9, 9, 9],
    tenant=[0, 1, 0],
    quota=[[1], [1]],
    outages=[Outage(0, 6, 8)],
)
WIDE = Instance(
    duration=np.full((5, 1), 3), demand=np.ones((5, 1, 1)), capacity=[[1]] * 3, agent_type=[0, 0, 0]
)
GAP = Instance([[3, 4], [5, 2]], np.ones((2, 2, 1)), [[1], [1]], [0, 1], sharing="budget")
CASES = {
    "default": {},
    "one": {"instances": [SMALL]},
    "mixed": {
        "instances": [SMALL, WIDE],
        "setting": Setting(track="online", observe="arrived", objective="makespan"),
    },
    "commit": {
        "instances": [WIDE, SMALL],
        "setting": Setting(mode="commit", backfill="easy"),
        "window": 3,
    },
    "budget": {"instances": [GAP]},
}


@pytest.fixture(params=CASES)
def env(request):
    return gymnasium.make(ENV_ID, **CASES[request.param])


def play(env, seed):
    """Play one episode of random legal actions; return (return, last observation, info)."""
    env.action_space.seed(seed)
    _, info = env.reset(seed=seed)
    total = 0.0
    done = False
    while not done:
        legal = info["action_mask"]
        action = env.action_space.sample()
        assert legal[action]
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation in env.observation_space
        assert np.array_equal(observation["action_mask"], info["action_mask"])
        total += reward
        done = terminated or truncated
    return total, observation, info


def test_the_checker_of_gymnasium_gives_no_warning(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


@pytest.mark.parametrize("seed", range(5))
def test_sampled_actions_are_legal_and_the_return_is_the_objective(env, seed):
    total, observation, info = play(env, seed)
    own = env.unwrapped
    instance = own.simulator.instances[info["instance"]]
    setting = own.simulator.setting
    objective = metrics.objective(instance, own.schedule(), setting.objective)
    assert -total * own.simulator.scale[info["instance"]] == pytest.approx(objective)
    assert not observation["action_mask"].any()


def test_equal_seeds_give_equal_episodes(env):
    first, second = play(env, 3), play(env, 3)
    assert first[0] == second[0]
    assert all(np.array_equal(first[1][key], second[1][key]) for key in first[1])


def test_an_observation_equals_the_one_computed_by_hand():
    env = gymnasium.make(
        ENV_ID,
        instances=[SMALL],
        setting=Setting(track="online", observe="arrived", objective="tardiness"),
    )
    env.reset(seed=0)
    observation, *_, info = env.step(1)  # task 0 on agent 1, at 0; task 1 may follow
    assert info["time"] == 0
    assert observation["tasks"].tolist() == [[1, 0, 9, 1, 1, 1], [0] * 6, [0] * 6]
    assert observation["duration"].tolist() == [[-1, 3], [-1, -1], [-1, -1]]
    assert observation["agents"].tolist() == [[0, 1, 6, 0, 0], [1, 1, MAX_TICKS, 2, 2]]
    assert observation["free"].tolist() == [[1], [1]]
    assert observation["capacity"].tolist() == [[1], [2]]
    assert observation["quota"].tolist() == [[0], [1]]
    assert observation["action_mask"].tolist() == [0, 1, 0, 0, 0, 0, 1]


def test_options_select_the_instance_and_unknown_options_are_errors():
    env = gymnasium.make(ENV_ID, instances=[SMALL, WIDE])
    assert [env.reset(options={"instance": i})[1]["instance"] for i in (1, 0, 1)] == [1, 0, 1]
    with pytest.raises(ValueError, match="index in range"):
        env.reset(options={"instance": 2})
    with pytest.raises(ValueError, match=r"unknown \['instanze'\]"):
        env.reset(options={"instanze": 0})


def test_an_illegal_action_is_an_error():
    env = gymnasium.make(ENV_ID, instances=[SMALL])
    env.reset(seed=0)
    with pytest.raises(IllegalAction):
        env.step(2)  # task 1 is not eligible on agent 0


def test_truncation_differs_from_termination():
    env = gymnasium.make(ENV_ID, max_decisions=2)
    env.reset(seed=0)
    assert env.step(0)[2:4] == (False, False)
    assert env.step(1)[2:4] == (False, True)
    env = gymnasium.make(ENV_ID, max_decisions=3)
    env.reset(seed=0)
    assert [env.step(action)[2:4] for action in (0, 1, 2)] == [
        (False, False),
        (False, False),
        (True, False),
    ]


def test_importing_bench_does_not_import_gymnasium():
    code = "import sys, bench.simulator; print('gymnasium' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )
