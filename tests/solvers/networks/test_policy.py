"""Policies of networks: saving, loading, also files of the former schema, and the device."""

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.setting import Setting
from bench.simulator import Simulator
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from solvers.networks.base import Network
from solvers.networks.constrained import ConstrainedNetwork
from solvers.networks.decision_transformer import DecisionTransformerNetwork
from solvers.networks.mlp import MLPNetwork
from solvers.networks.pairwise import PairwiseNetwork
from solvers.networks.policy import NetworkPolicy, choose_device, load_policy
from tests.solvers.learning import CPU, confident_network, random_instance, same_weights

NETWORKS = {
    "pairs": lambda: PairwiseNetwork(8, 1),
    "mlp": lambda: MLPNetwork(6, 3, 8),
    "constrained": lambda: ConstrainedNetwork(8, 1, 0.4),
    "transformer": lambda: DecisionTransformerNetwork(8, 1, 16, 1, 2, 3, 64, -0.7),
}


def outputs(network: Network) -> list[torch.Tensor]:
    """Return the logits and values of the first decisions of some episodes."""
    instances = [random_instance(np.random.default_rng(k)) for k in range(4)]
    view = from_simulator(TensorSimulator(instances, Setting()))
    network.reset()
    with torch.no_grad():
        return list(network(network.featurize(view)))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_saved_policy_is_loaded_with_the_same_weights_and_shape(kind, tmp_path):
    policy = NetworkPolicy(NETWORKS[kind](), 7, CPU, shaped=False, predicts_returns=False)
    policy.save(tmp_path / "policy.pt")
    loaded = load_policy(tmp_path / "policy.pt", CPU)
    assert type(loaded.network) is type(policy.network)
    assert loaded.network.shape == policy.network.shape
    assert (loaded.window, loaded.shaped, loaded.predicts_returns) == (7, False, False)
    assert same_weights(policy, loaded)


def test_a_loaded_policy_decides_as_the_saved_one(tmp_path):
    policy = NetworkPolicy(confident_network(), 4, CPU)
    policy.save(tmp_path / "policy.pt")
    loaded = load_policy(tmp_path / "policy.pt", CPU)
    instance = random_instance(np.random.default_rng(5))
    simulator = Simulator([instance], Setting(), window=loaded.window)
    while not simulator.terminated[0]:
        observation = simulator.observation(0)
        action = policy.act(observation, np.random.default_rng(0))
        assert action == loaded.act(observation, np.random.default_rng(0))
        simulator.step(np.array([simulator.flat(action, observation)]))


# -- files of schema 4 ---------------------------------------------------------------------------

LAYER = (
    "task_norm",
    "agent_norm",
    "of_pair",
    "of_task",
    "of_agent",
    "task_in",
    "agent_in",
    "task_out",
    "agent_out",
)
PAIRS = [
    "task",
    "agent",
    *(f"hearing.0.{name}" for name in LAYER),
    "whole",
    "of_pair",
    "of_task",
    "of_agent",
    "of_whole",
    *(f"{head}.{i}" for head in ("score", "wait", "value") for i in (0, 2)),
]
PERCEPTRONS = [f"{name}.{i}" for name in ("policy", "value") for i in (0, 2, 4)]


def weights_and_biases(modules: list[str], prefix: str = "") -> list[str]:
    return [f"{prefix}{name}.{part}" for name in modules for part in ("weight", "bias")]


# names of the parameters, in order, as the version before wrote them; None stands for the names
# that d3rlpy gives to the parameters of its transformer
FORMER_NAMES = {
    "pairs": weights_and_biases(PAIRS),
    "mlp": weights_and_biases(PERCEPTRONS),
    "constrained": [
        *weights_and_biases(PAIRS, "imitator."),
        *weights_and_biases(PAIRS, "values."),
    ],
    "transformer": [
        "of_wait",
        *weights_and_biases(PAIRS, "pairs."),
        *weights_and_biases(["of_return", "of_state", "of_action"]),
        "position.weight",
        None,
        *weights_and_biases(["back"]),
    ],
}


def former_state(network: Network) -> dict[str, torch.Tensor]:
    """Return the state dictionary of `network` under the former names."""
    state = network.state_dict()
    attention = [name for name in state if name.startswith("attention.")]
    names: list[str] = []
    for name in FORMER_NAMES[network.kind]:
        names += attention if name is None else [name]
    assert network.kind == "mlp" or names != list(state)
    return dict(zip(names, state.values(), strict=True))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_policy_file_of_schema_4_is_loaded(kind, tmp_path):
    torch.manual_seed(1)
    network = NETWORKS[kind]()
    shape = {"rounds" if k == "message_passing_rounds" else k: v for k, v in network.shape.items()}
    state = {
        "schema": 4,
        "shape": {"kind": kind, **shape},
        "window": 5,
        "network": former_state(network),
    }
    torch.save(state, tmp_path / "policy.pt")
    loaded = load_policy(tmp_path / "policy.pt", CPU)
    assert type(loaded.network) is type(network)
    assert loaded.network.shape == network.shape
    assert (loaded.window, loaded.shaped) == (5, True)
    assert same_weights(NetworkPolicy(network, 5, CPU), loaded)
    for one, other in zip(outputs(network), outputs(loaded.network), strict=True):
        assert torch.equal(one, other)


def test_former_names_are_read_below_a_prefix_and_a_wrong_name_is_an_error():
    network = NETWORKS["pairs"]()
    average = torch.optim.swa_utils.AveragedModel(NETWORKS["pairs"]())
    former = {f"module.{name}": value for name, value in former_state(network).items()}
    average.load_state_dict({"n_averaged": torch.tensor(3), **former})
    for name, value in network.state_dict().items():
        assert torch.equal(average.module.state_dict()[name], value)
    former["module.tasks.weight"] = former.pop("module.task.weight")
    with pytest.raises(RuntimeError, match=r"tasks\.weight"):
        average.load_state_dict({"n_averaged": torch.tensor(3), **former})


# -- errors --------------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_read_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"missing\.pt does not exist"):
        load_policy(tmp_path / "missing.pt", CPU)
    (tmp_path / "short.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match=r"short\.pt is no policy"):
        load_policy(tmp_path / "short.pt", CPU)
    torch.save({"schema": 3}, tmp_path / "former.pt")
    with pytest.raises(UserError, match=r"former\.pt .*schema is 3, this version reads 4 and 5"):
        load_policy(tmp_path / "former.pt", CPU)


def test_a_device_that_cannot_be_used_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(UserError, match=r"device: value cuda.*solver\.device=cpu"):
        choose_device("cuda")
    with pytest.raises(UserError, match="must be auto, cpu or cuda"):
        choose_device("tpu")
