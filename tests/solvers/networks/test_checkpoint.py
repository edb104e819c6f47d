"""Checkpoints: the last that can be read, else the one before, else the beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.errors import UserError
from solvers.networks.checkpoint import previous, resume_checkpoint, save_checkpoint


class Counter:
    """A training whose state is a step and a weight, restored one after the other."""

    def __init__(self) -> None:
        self.step, self.weight = 0, torch.zeros(2)

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "weight": self.weight}

    def restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.weight.copy_(state["weight"])

    def resume(self, path: Path) -> bool:
        return resume_checkpoint(path, self.state(), self.restore)


def saved(path: Path, steps: int) -> None:
    training = Counter()
    for _ in range(steps):
        training.step += 1
        training.weight += 1.0
        save_checkpoint(path, training.state())


def damage(path: Path, how: str) -> None:
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "list":
        torch.save([1, 2], path)
    elif how == "half":  # the step can be restored, the weight cannot
        torch.save({"step": 9, "weight": torch.ones(3)}, path)
    else:
        path.write_bytes(how.encode())


HOW = ["empty", "cut", "list", "half", "text"]


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "training.pt"
    saved(path, 3)
    damage(path, how)
    training = Counter()
    assert training.resume(path)
    assert (training.step, training.weight.tolist()) == (2, [2.0, 2.0])
    (line,) = caplog.messages
    assert line.startswith(f"{path}: cannot be resumed from (")
    assert line.endswith("the training goes on from the checkpoint before it")


@pytest.mark.parametrize("how", HOW)
def test_without_a_whole_checkpoint_the_training_begins_again(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "training.pt"
    saved(path, 2)
    damage(path, how)
    damage(previous(path), how)
    training = Counter()
    assert not training.resume(path)
    assert (training.step, training.weight.tolist()) == (0, [0.0, 0.0])
    assert len(caplog.messages) == 2
    assert caplog.messages[-1].endswith("goes on from its beginning")


def test_a_kill_between_the_two_renames_loses_one_checkpoint_at_most(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    saved(path, 2)
    path.unlink()
    training = Counter()
    assert training.resume(path)
    assert training.step == 1


def test_a_whole_checkpoint_of_another_training_is_the_users_to_decide(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    saved(path, 2)

    def refuse(state: dict[str, Any]) -> None:
        raise UserError("not what it was trained on")

    with pytest.raises(UserError, match="not what it was trained on"):
        resume_checkpoint(path, Counter().state(), refuse)


def test_nothing_is_restored_without_a_file(tmp_path: Path) -> None:
    assert not Counter().resume(tmp_path / "training.pt")
