"""Checkpoints of a training: the last one, and the one before where the last cannot be read."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.errors import UserError, one_line
from bench.files import write_bytes

PREVIOUS = ".previous"  # suffix of the checkpoint before the last


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state`; the checkpoint that was there is kept as the previous one."""
    write_bytes(path, serialised(state), keep=previous(path))


def resume_checkpoint(
    path: Path, state: dict[str, Any], restore: Callable[[dict[str, Any]], None]
) -> bool:
    """Restore the last checkpoint that can be read; return whether there was one.

    A damaged checkpoint is left out with a warning. Where none can be used, the training has the
    state that it began with.

    Parameters
    ----------
    path
        The checkpoint file.
    state
        The present state, which `restore` can restore.
    restore
        Continues from a state; it may fail halfway.

    Raises
    ------
    UserError
        That `restore` raises, for a checkpoint that is whole and does not belong to the training.
    """
    candidates = [one for one in (path, previous(path)) if one.exists()]
    began = serialised(state) if candidates else b""
    for candidate in candidates:
        try:
            restore(torch.load(candidate, map_location="cpu", weights_only=True))
        except UserError:
            raise
        except (
            Exception
        ) as error:  # torch raises many types for a file that is cut short or foreign
            logging.getLogger(__name__).warning(
                "%s: cannot be resumed from (%s); the training goes on from %s",
                candidate,
                one_line(error, 120),
                "the checkpoint before it" if candidate != candidates[-1] else "its beginning",
            )
            restore(torch.load(io.BytesIO(began), map_location="cpu", weights_only=True))
        else:
            return True
    return False


def previous(path: Path) -> Path:
    """Return where the checkpoint before the last is kept."""
    return path.with_name(path.name + PREVIOUS)


def serialised(state: dict[str, Any]) -> bytes:
    """Return `state` in the form of `torch.save`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
