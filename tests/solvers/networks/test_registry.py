"""A kind of network is one module: no list names it, and importing the others stays light."""

import subprocess
import sys

import pytest

import solvers.networks
from solvers.networks.base import Network
from solvers.networks.policy import load_policy
from solvers.networks.registry import network_kinds, trainable_kinds
from solvers.ppo import PPO
from tests.solvers.learning import (
    CPU,
    FixedDataset,
    MemoryLogger,
    fit,
    random_instance,
    same_weights,
    small_learner,
)

NEW_KIND = '''
"""A new kind of network."""

from solvers.networks.pairwise import PairwiseNetwork


class NewNetwork(PairwiseNetwork):
    """The pairwise network under another name."""

    kind = "{kind}"
'''


@pytest.fixture
def new_kind(tmp_path, monkeypatch):
    """Return a function that adds one module with a network of the given kind to the package."""
    monkeypatch.setattr(solvers.networks, "__path__", [*solvers.networks.__path__, str(tmp_path)])

    def add(kind: str) -> None:
        (tmp_path / "new_network.py").write_text(NEW_KIND.format(kind=kind))

    yield add
    sys.modules.pop("solvers.networks.new_network", None)
    vars(solvers.networks).pop("new_network", None)


def test_every_network_of_the_package_is_found_by_its_kind():
    kinds = network_kinds()
    assert set(kinds) >= {"attention", "constrained", "mlp", "pairs", "transformer"}
    assert all(issubclass(network, Network) for network in kinds.values())
    assert all(network.kind == kind for kind, network in kinds.items())
    assert trainable_kinds() == ["attention", "mlp", "pairs"]


def test_a_new_module_is_all_that_a_new_kind_needs(new_kind, tmp_path):
    new_kind("new")
    assert trainable_kinds() == ["attention", "mlp", "new", "pairs"]
    learner = small_learner(PPO, network="new", steps=4, minibatch=64)
    policy = fit(learner, FixedDataset(random_instance, 2), MemoryLogger(tmp_path), 100)
    assert type(policy.network).__name__ == "NewNetwork"
    loaded = load_policy(tmp_path / "policy.pt", CPU)
    assert type(loaded.network) is type(policy.network)
    assert same_weights(policy, loaded)


def test_two_networks_of_one_kind_are_an_error(new_kind):
    new_kind("pairs")
    with pytest.raises(TypeError, match=r"kind: value 'pairs': .* has the same kind"):
        network_kinds()


def test_finding_the_networks_does_not_import_d3rlpy():
    code = (
        "import sys; from solvers.networks.registry import network_kinds; network_kinds(); "
        "print('d3rlpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
