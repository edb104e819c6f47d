"""Old names of options, values, solvers and modules, and the hash of settings that ignores them."""

from __future__ import annotations

from typing import Any

import pytest

from bench import renamed
from bench.plugins import members
from bench.settings_hash import settings_hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("events", "event_order"),
        ("ship", "update_references"),
        ("solver.lam", "solver.gae_lambda"),
        ("solver.imitation.together", "solver.imitation.num_envs"),
        ("solver.online.start", "solver.online.init_policy"),
        ("dataset.start", "dataset.start"),
        ("seed", "seed"),
    ],
)
def test_options(old: str, new: str) -> None:
    assert renamed.current_key(old) == new


def test_stored_settings() -> None:
    old = {"events": "singly", "track": "online", "seed": 3}
    assert renamed.current_setting(old) == {
        "event_order": "sequential",
        "track": "online",
        "seed": 3,
    }
    assert renamed.current_setting({"event_order": "batched"}) == {"event_order": "batched"}


def test_every_new_name_is_in_use_and_no_old_one() -> None:
    assert set(renamed.SOLVERS.values()) <= set(members("solver"))
    assert not set(renamed.SOLVERS) & set(members("solver"))
    assert not set(renamed.PLUGIN_KEYS) & set(renamed.PLUGIN_KEYS.values())


OLD: dict[str, Any] = {
    "_target_": "solvers.ppo.PPO",
    "lam": 0.9,
    "imitation": {"_target_": "solvers.imitation.Imitation", "together": 32},
    "widths": [1, 2],
}
NEW: dict[str, Any] = {
    "_target_": "solvers.moved.PPO",
    "gae_lambda": 0.9,
    "imitation": {"_target_": "solvers.rl.imitation.Imitation", "num_envs": 32},
    "widths": (1, 2),
}


def test_modules_and_old_names_change_no_hash() -> None:
    assert settings_hash(OLD) == settings_hash(NEW)
    assert settings_hash(dict(reversed(NEW.items()))) == settings_hash(NEW)


@pytest.mark.parametrize(
    "change",
    [
        {"_target_": "solvers.ppo.A2C"},
        {"_target_": "elsewhere.PPO"},
        {"gae_lambda": 0.95},
        {"imitation": None},
        {"widths": [2, 1]},
        {"more": 1},
    ],
)
def test_every_other_change_changes_the_hash(change: dict[str, Any]) -> None:
    assert settings_hash(NEW | change) != settings_hash(NEW)


def test_a_hash_has_the_length_asked_for() -> None:
    assert settings_hash(NEW, 8) == settings_hash(NEW)[:8]
    assert len(settings_hash(NEW)) == 16
