"""Offline learners as the suite meets them: policies from logs, kept, continued, chosen without the simulator, judged by it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.contracts import Budget
from bench.errors import UserError
from bench.instance import Instance
from bench.rollout import PolicySolver, played_as
from bench.setting import Setting
from bench.simulator.tables import LEAVE
from bench.simulator.tensors import TensorSimulator
from bench.simulator.view import from_simulator
from solvers.cpsat import CpSat
from solvers.networks.decision_transformer import TransformerNetwork
from solvers.networks.policy import load_policy
from solvers.offline import learners
from solvers.offline.feed import Feed
from solvers.offline.learner import Study, matched, split
from solvers.offline.to_online import OfflineToOnline
from solvers.ppo import PPO
from solvers.rules import SJF
from tests.solvers.learning import Fixed, Notes, random_instance, small, stop_after
from tests.solvers.offline.logged import CPU, DATA, Greedy, Logs, logged
from tests.solvers.offline.logged import KINDS as LEARNERS

LOG, _ = logged(episodes=60)
SMALL = {
    "logs": Logs(LOG),
    "width": 8,
    "rounds": 1,
    "steps": 20,
    "batch": 32,
    "candidates": 2,
    "fqe_steps": 10,
}
KINDS = {
    **LEARNERS,
    "decision_transformer": (
        learners.DecisionTransformer,
        {"embed": 16, "layers": 1, "heads": 2, "context": 4},
    ),
}


def learner(name, **changes):
    kind, own = KINDS[name]
    return kind(**{**SMALL, **own, **changes})


def fit(one, folder, data=DATA, setting=None, seed=0, then=lambda notes: None):
    folder.mkdir(exist_ok=True)
    notes = Notes(folder, then)
    policy = one.fit(
        data, setting or Setting(), Budget(threads=1), np.random.default_rng(seed), notes
    )
    return policy, notes


def schedules(policy, instances):
    solver = PolicySolver(policy)
    return [
        solver.solve(i, Setting(), Budget(), np.random.default_rng(0)).schedule.to_dict()
        for i in instances
    ]


@pytest.mark.parametrize("name", KINDS)
def test_a_policy_is_learnt_kept_and_decides_the_same_when_loaded(name, tmp_path):
    policy, notes = fit(learner(name), tmp_path)
    again = load_policy(tmp_path / "policy.pt", CPU)
    test = list(DATA.instances("test"))[:6]
    assert schedules(policy, test) == schedules(again, test)
    larger = [
        random_instance(np.random.default_rng(k), n=11, m=5) for k in range(2)
    ]  # than it was trained on
    assert schedules(policy, larger) == schedules(again, larger)
    assert notes.facts["logs/hash"] == LOG.hash
    assert len(notes.heard) == 4  # one set of metrics per epoch
    assert any(key.startswith("losses/") for key in notes.heard[0][1])
    assert notes.heard[3][0] == 20
    played, _ = fit(learner(name, checkpoint=str(tmp_path / "policy.pt")), tmp_path / "other")
    assert schedules(played, test) == schedules(policy, test)


@pytest.mark.parametrize("name", KINDS)
def test_a_killed_training_goes_on_to_the_same_network(name, tmp_path):
    whole, _ = fit(learner(name, candidates=2, selection="last"), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(learner(name, candidates=2, selection="last"), tmp_path / "killed", then=stop_after(2))
    again, notes = fit(learner(name, candidates=2, selection="last"), tmp_path / "killed")
    assert len(notes.heard) == 2
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key]), key


def test_a_training_is_not_continued_on_another_log(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(learner("bc", candidates=2), tmp_path, then=stop_after(2))
    other = replace(logged(episodes=40)[0], name="other")
    with pytest.raises(
        UserError, match=r"logs: other is not what .*training.pt was trained on; rerun=true"
    ):
        fit(learner("bc", candidates=2, logs=Logs(other)), tmp_path)


def test_cloning_an_expert_comes_near_it(tmp_path):
    data = Fixed(lambda rng: random_instance(rng, n=5, m=2), 300)
    log, _ = logged(300, CpSat(), data=data)
    settings = {
        **SMALL,
        "logs": Logs(log, data),
        "width": 16,
        "steps": 300,
        "lr": 3e-3,
        "batch": 128,
    }
    policy, notes = fit(learners.BC(**settings), tmp_path, data)
    expert, cloned = notes.facts["logs/held_out_return"], notes.facts["ope/true"]
    random = logged(300, data=data)[0].returns.mean()
    assert cloned > random + 0.6 * (expert - random)
    assert isinstance(policy.network, torch.nn.Module)


def test_values_learnt_from_noisy_play_beat_who_played(tmp_path):
    data = Fixed(lambda rng: random_instance(rng, n=5, m=2), 300)
    log, _ = logged(600, SJF(), noise=0.5, data=data)
    settings = {
        **SMALL,
        "logs": Logs(log, data),
        "width": 16,
        "steps": 400,
        "lr": 3e-3,
        "batch": 128,
        "selection": "last",
    }
    _, notes = fit(learners.CQL(**settings, alpha=0.3), tmp_path, data)
    assert notes.facts["ope/true"] > notes.facts["logs/held_out_return"] + 0.05 * abs(
        notes.facts["logs/held_out_return"]
    )


@pytest.mark.parametrize("selection", ["fqe", "oracle", "last"])
def test_a_policy_is_chosen_among_the_candidates(selection, tmp_path):
    _, notes = fit(learner("dqn", selection=selection, candidates=5), tmp_path)
    facts = notes.facts
    assert facts["learning/selection"] == selection
    values = facts["ope/fqe_of_candidates"]
    if selection == "fqe":
        assert facts["learning/chosen"] == int(np.argmax(values)) + 1
    if selection == "last":
        assert facts["learning/chosen"] == 5
    assert facts["ope/true"] == facts["ope/true_of_candidates"][facts["learning/chosen"] - 1]
    for name in ("fqe", "is", "wis", "dr"):
        assert facts[f"ope/{name}_low"] <= facts[f"ope/{name}"] <= facts[f"ope/{name}_high"]
        assert facts[f"ope/{name}_error"] == pytest.approx(
            abs(facts[f"ope/{name}"] - facts["ope/true"])
        )
        assert facts[f"ope/{name}_regret_1"] >= 0


def test_without_probabilities_importance_sampling_refuses_and_the_rest_goes_on(tmp_path):
    _, notes = fit(learner("bc", logs=Logs(replace(LOG, probability=None))), tmp_path)
    assert "need the probability" in notes.facts["ope/refused"]
    assert "ope/fqe" in notes.facts
    assert "ope/is" not in notes.facts
    assert "ope/dr" not in notes.facts


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("bcq", {"flexibility": 0.0}, "solver.flexibility: must be above 0 and at most 1"),
        ("iql", {"expectile": 1.5}, "solver.expectile: must lie between 0 and 1"),
        ("iql", {"inverse_temperature": -5.0}, "solver.inverse_temperature: must be above 0"),
        ("cql", {"alpha": -1.0}, "solver.alpha: must not be negative"),
        (
            "decision_transformer",
            {"heads": 3},
            "solver.embed: 16 must be a multiple of solver.heads=3",
        ),
        (
            "decision_transformer",
            {"target_return_quantile": 2.0},
            "solver.target_return_quantile: must lie between 0 and 1",
        ),
    ],
)
def test_settings_of_an_algorithm_that_mean_nothing(name, changes, said):
    with pytest.raises(UserError, match=said):
        learner(name, **changes)


def test_a_log_of_another_kind_of_play_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"logged was played with mode=fit, the run has commit; set mode=fit"
    ):
        fit(learner("bc"), tmp_path, setting=Setting(mode="commit"))


def test_what_decides_by_its_past_is_no_start_for_ppo(tmp_path):
    fit(learner("decision_transformer"), tmp_path)
    tuned = small(PPO, steps=8, minibatch=64, start=str(tmp_path / "policy.pt"))
    with pytest.raises(UserError, match=r"solver.start: .*policy.pt decides by what it did before"):
        tuned.fit(
            DATA,
            Setting(),
            Budget(decisions=256, threads=1),
            np.random.default_rng(0),
            Notes(tmp_path),
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"episodes": 61}, "solver.episodes: 61 asked for, logged has 60; record a larger log"),
        ({"steps": 21}, "solver.steps: 21 must be a multiple of twice solver.candidates=2"),
        ({"held_out": 0.0}, "solver.held_out: must lie between 0 and 1"),
        ({"selection": "best"}, "solver.selection: 'best' must be one of fqe, oracle, last"),
        ({"lr": 0.0}, "solver.lr: must be above 0"),
        ({"episodes": 0}, "solver.episodes: at least 1 is needed"),
        ({"logs": Logs(LOG, setting=Setting(objective="makespan"))}, "played with objective=makespan, the run has total_time"),
        ({"logs": Logs(LOG.part([0]))}, "at least 2 instances are needed.*; raise solver.episodes if it is set"),
        ({"logs": Logs(LOG, setting=Setting(observe="arrived"))}, "played with observe=arrived, the run has all; set observe="),
        ({"window": 3}, r"solver.window: 3, but logged shows up to \d+ tasks; set solver.window="),
        ({"checkpoint": "no.pt"}, "no.pt does not exist"),
        ({"logs": Logs(LOG, Fixed(lambda rng: random_instance(rng, n=4), 3))}, r"instance .*, which its data set does not"),
    ],
)  # fmt: skip
def test_what_cannot_be_learnt_from_is_one_clear_error(changes, said, tmp_path):
    with pytest.raises(UserError, match=said):
        fit(learner("bc", **changes), tmp_path)


def test_a_run_sees_what_its_log_shows(tmp_path):
    blind = Logs(LOG, setting=Setting(track="online", observe="arrived"))
    assert played_as(learner("bc", logs=blind), Setting()).observe == "arrived"
    assert (
        played_as(OfflineToOnline(learner("bc", logs=blind), small(PPO)), Setting()).observe
        == "arrived"
    )
    assert played_as(learner("bc"), Setting()).observe == "all"
    fit(learner("bc"), tmp_path)
    loaded = learner("bc", logs=None, checkpoint=str(tmp_path / "policy.pt"))
    assert played_as(loaded, Setting(observe="arrived")).observe == "arrived"
    assert (
        played_as(learner("bc", logs=blind, checkpoint="policy.pt"), Setting()).observe == "arrived"
    )
    assert schedules(fit(loaded, tmp_path / "other")[0], list(DATA.instances("test"))[:2])


@pytest.mark.parametrize(("selection", "seconds"), [("fqe", 100.0), ("last", 0.0), ("oracle", 0.0)])
def test_what_it_takes_to_choose_is_a_cost_of_learning(tmp_path, monkeypatch, selection, seconds):
    """By a clock that only the estimates take time on."""
    now, evaluate = [0.0], Study._evaluate

    def slowly(study):
        now[0] += 100.0
        evaluate(study)

    monkeypatch.setattr("time.process_time", lambda: now[0])
    monkeypatch.setattr(Study, "_evaluate", slowly)
    _, notes = fit(learner("bc", selection=selection), tmp_path)
    assert notes.facts["learning/cpu_seconds"] == seconds


def test_a_log_on_other_instances_is_refused_before_anything_is_learnt(tmp_path):
    heard, other = [], Logs(LOG, Fixed(lambda rng: random_instance(rng, n=4), 3))
    with pytest.raises(UserError, match="which its data set does not have"):
        fit(learner("bc", logs=other), tmp_path, then=heard.append)
    assert heard == []


def test_what_is_no_longer_finite_is_no_policy(tmp_path):
    """At this rate of learning weights overflow: a run that failed, not bad input."""
    with pytest.raises(
        FloatingPointError, match=r"no longer finite after \d+ steps; lower solver.lr"
    ):
        fit(learner("dqn", lr=1e30), tmp_path)


def test_fewer_episodes_are_learnt_from_when_asked(tmp_path):
    _, notes = fit(learner("bc", episodes=30), tmp_path)
    assert notes.facts["logs/episodes"] == 30


def test_rejected_rows_are_kept_in_the_run(tmp_path):
    logs = Logs(LOG)
    logs.rejected = [(4, "ended before it began")]
    _, notes = fit(learner("bc", logs=logs), tmp_path)
    assert notes.facts["logs/rejected_rows"] == 1
    assert (tmp_path / "rejected.csv").read_text() == "row,reason\n4,ended before it began\n"


def test_no_instance_is_on_both_sides():
    kept, held = split(LOG, 0.3, np.random.default_rng(0))
    assert sorted(kept + held) == list(range(60))
    assert not {LOG.instance[e] for e in kept} & {LOG.instance[e] for e in held}
    assert len({LOG.instance[e] for e in held}) == round(0.3 * 24)
    assert len(matched(LOG, DATA.instances("train"))) == 60
    assert LOG.return_by_behaviour == {"who": pytest.approx(LOG.returns.mean())}


def test_ppo_goes_on_from_an_offline_policy(tmp_path):
    for name in (
        "bc",
        "cql",
        "bcq",
    ):  # one with a policy of its own, one that decides by its Q function, one by both
        policy, _ = fit(learner(name), tmp_path / name)
        tuned = small(
            PPO,
            steps=8,
            minibatch=64,
            decoding="greedy",
            start=str(tmp_path / name / "policy.pt"),
            lr=1e-9,
        )
        notes = Notes(tmp_path / f"{name}-ppo")
        notes.folder.mkdir()
        tuned = tuned.fit(
            DATA, Setting(), Budget(decisions=256, threads=1), np.random.default_rng(0), notes
        )
        test = list(DATA.instances("test"))[:6]
        assert schedules(tuned, test) == schedules(
            policy, test
        )  # at this learning rate nothing moves


def test_the_policy_of_a_q_function_is_calm_and_as_greedy_as_before():
    feed = Feed(LOG, CPU)
    network = learners.PairNetwork(8, 1)
    seen = feed.states.at(feed.state).features
    before = network(seen)[0].argmax(dim=1)
    logits = learners.calmed(network, feed)(seen)[0]
    assert torch.equal(logits.argmax(dim=1), before)
    entropy = torch.distributions.Categorical(logits=logits.clamp(min=-1e8)).entropy().mean()
    assert float(entropy.detach()) == pytest.approx(learners.CALM, rel=0.2)


def test_few_choices_do_not_make_a_policy_uniform():
    """Where most decisions are forced even uniform play has less entropy than CALM."""

    def light(rng):
        n = 1 + int(rng.random() < 0.25)  # a choice where there are two, forced afterwards
        return Instance(rng.integers(1, 9, size=(n, 1)), np.ones((n, 1, 1)), [[1]], [0])

    feed = Feed(logged(24, data=Fixed(light, 12))[0], CPU)
    states = feed.states.at(feed.state)
    uniform = states.mask.sum(dim=1).double().log().mean()
    assert 0 < uniform < learners.CALM
    torch.manual_seed(0)
    network = learners.PairNetwork(8, 1)
    logits = learners.calmed(network, feed)(states.features)[0]
    entropy = torch.distributions.Categorical(logits=logits.clamp(min=-1e8)).entropy().mean()
    assert float(entropy.detach()) == pytest.approx(float(uniform) / 2, rel=0.2)


def test_actions_that_are_alike_do_not_make_scores_explode():
    """On four identical agents every start is as good on one as on another, whatever the scores are multiplied by."""

    def alike(rng):
        ticks = rng.integers(1, 9, size=(5, 1))
        return Instance(
            ticks,
            np.ones((5, 1, 1)),
            np.ones((4, 1)),
            [0, 0, 0, 0],
            release=rng.integers(0, 5, size=5),
        )

    data = Fixed(alike, 24)
    feed = Feed(logged(48, data=data)[0], CPU)
    torch.manual_seed(0)
    for network in (learners.PairNetwork(8, 1), learners.ConstrainedNetwork(8, 1, 1e-9)):
        before = network(feed.states.at(feed.state).features)[0].argmax(dim=1)
        logits = learners.calmed(network, feed)(feed.states.at(feed.state).features)[0]
        assert logits[logits.isfinite()].abs().max() < 1000
        assert torch.equal(logits.argmax(dim=1), before)


def test_quantiles_are_averaged_into_one_network():
    torch.manual_seed(0)
    network = learners.PairNetwork(8, 1, outputs=5)
    feed = Feed(LOG, CPU)
    seen = feed.states.at(feed.state)
    mean = learners.mean_network(network)(seen.features)[0]
    assert torch.allclose(
        mean[seen.mask], network(seen.features)[0].mean(dim=2)[seen.mask], atol=1e-5
    )


def test_a_transformer_decides_while_playing_as_it_does_along_what_was_played():
    """What it remembers while it plays is what `along` reads from the log of that play, also beyond its context."""
    torch.manual_seed(0)
    network = TransformerNetwork(8, 1, 16, 1, 2, context=3)
    torch.nn.init.normal_(network.back.weight)
    torch.nn.init.normal_(network.pairs.score[2].weight)
    log, _ = logged(24, Greedy(network))
    feed = Feed(log, CPU)
    past = feed.trajectories(torch.arange(len(feed)), network.context)
    with torch.no_grad():
        logits = network.along(
            past.seen,
            past.action,
            torch.full_like(past.return_to_go, network.target_return),
            past.step,
            past.known,
        )
    assert torch.equal(logits[:, -1].argmax(dim=1), feed.action)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_no_illegal_action_in_a_hundred_thousand_decisions(name, tmp_path):
    """In the targets of training, in play, and in what PPO makes of the policy (`check` raises for an illegal action)."""
    learner_ = learner(name)
    feed = Feed(LOG, CPU)
    policy, _ = fit(learner_, tmp_path)
    algorithm = learner_.algorithm(feed)
    if hasattr(algorithm, "predict"):
        from solvers.offline import d3rlpy_algorithms as d3

        targets = 0
        while targets < 100_000 and name != "decision_transformer":
            batch = feed.draw(1024)
            algorithm.update(d3.mini_batch(batch, CPU))
            going = batch.terminal == 0
            best = algorithm.impl.predict_best_action(batch.following)
            assert batch.following.mask.gather(1, best[:, None])[going].all()
            targets += int(going.sum())
    decisions, round_ = 0, 0
    while decisions < 100_000:
        instances = [
            random_instance(np.random.default_rng([round_, k]), n=8 + k % 5) for k in range(256)
        ]
        simulator = TensorSimulator(instances, Setting())
        policy.reset()
        while simulator.playing.any():
            with torch.no_grad():
                action = policy.network(policy.network.see(from_simulator(simulator)))[0].argmax(
                    dim=1
                )
            decisions += int(simulator.playing.sum())
            simulator.step(torch.where(simulator.playing, action, LEAVE))
        simulator.check()
        round_ += 1
    if name != "decision_transformer":  # which decides by its past
        start = {
            "start": str(tmp_path / "policy.pt"),
            "envs": 64,
            "steps": 32,
            "minibatch": 512,
            "decoding": "greedy",
        }
        notes = Notes(Path(tmp_path) / "ppo")
        notes.folder.mkdir()
        small(PPO, **start).fit(
            DATA, Setting(), Budget(decisions=100_000, threads=1), np.random.default_rng(0), notes
        )


def test_from_a_log_to_the_simulator(tmp_path):
    """PPO starts from what was learnt from the log, both accounts are kept, and a killed run goes on with the second part."""
    online = small(PPO, steps=8, minibatch=64, decoding="greedy", lr=1e-9)
    both = OfflineToOnline(learner("bc"), online)
    assert both.logs is both.offline.logs
    notes = Notes(tmp_path)
    policy = both.fit(
        DATA, Setting(), Budget(decisions=256, threads=1), np.random.default_rng(0), notes
    )
    test = list(DATA.instances("test"))[:6]
    assert schedules(policy, test) == schedules(
        load_policy(tmp_path / "offline" / "policy.pt", CPU), test
    )
    assert notes.facts["offline/learning/steps"] == 20
    assert notes.facts["logs/hash"] == LOG.hash
    assert "learning/decisions_to_sjf" in notes.facts
    assert any(name.startswith("offline/losses/") for _, values in notes.heard for name in values)
    again = Notes(tmp_path)
    both.fit(DATA, Setting(), Budget(decisions=256, threads=1), np.random.default_rng(0), again)
    assert not any(name.startswith("offline/") for _, values in again.heard for name in values)
