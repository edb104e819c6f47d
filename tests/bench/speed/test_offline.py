"""The speed benchmark of offline learning: its rows, and what the compared variants do."""

import numpy as np
import pytest
import torch

from bench.speed import offline

NAMES = ["offline buffer", "d3rlpy's sampler", "d3rlpy's sampler and losses"]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return offline.random_log(4, tmp_path_factory.mktemp("cache")).episodes()


def test_rows_are_the_best_rates_after_the_first_round(monkeypatch):
    first_round = [(99, 99), (99, 99), (99, 99)]  # (processor, wall clock) of each variant
    rounds = [(8, 7), (2, 1), (1, 1), (6, 9), (4, 3), (1, 2)]
    samplers = [(100, 1), (50, 1), (10, 1)]
    rates = iter([*first_round, *rounds, *samplers])

    def measure(call, times):
        call()
        return next(rates)

    monkeypatch.setattr(offline, "BATCH", 8)
    monkeypatch.setattr(offline, "measure", measure)
    rows = list(offline.rows(1, rounds=2, steps=3, episodes=4))
    assert rows == [
        {
            "sampler": name,
            "steps_per_cpu_second": processor,
            "steps_per_second": wall,
            "sampling_ms": milliseconds,
            "ratio": 8 / processor,
        }
        for name, processor, wall, milliseconds in zip(
            NAMES, (8, 4, 1), (7, 3, 2), (10.0, 20.0, 100.0), strict=True
        )
    ]


def test_rates_count_every_call():
    calls = []
    processor, wall = offline.measure(lambda: calls.append(sum(range(10_000))), 20)
    assert len(calls) == 20
    assert processor > 0
    assert wall > 0


def test_every_variant_trains_its_network(log, monkeypatch):
    monkeypatch.setattr(offline, "BATCH", 8)
    for algorithm, sampler in offline.variants(log).values():
        before = [weight.detach().clone() for weight in algorithm.q_network.parameters()]
        offline.gradient_step(algorithm, sampler)
        after = list(algorithm.q_network.parameters())
        assert any(not torch.equal(x, y) for x, y in zip(before, after, strict=True))


def test_only_the_losses_of_d3rlpy_evaluate_the_network_twice(log, monkeypatch):
    monkeypatch.setattr(offline, "BATCH", 8)
    passes = {}
    for name, (algorithm, sampler) in offline.variants(log).items():
        evaluations = []
        algorithm.q_network.register_forward_hook(
            lambda *_, evaluations=evaluations: evaluations.append(torch.is_grad_enabled())
        )
        offline.gradient_step(algorithm, sampler)
        passes[name] = sum(evaluations)
    assert passes == dict(zip(NAMES, (1, 1, 2), strict=True))


def test_the_log_holds_random_legal_actions_on_small(log):
    assert len(log.length) == 4
    assert set(log.behaviour) == {"random"}
    assert (log.probability < 1.0).any()
    assert np.isfinite(log.reward).all()
