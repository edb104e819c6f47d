"""Logged episodes as Minari keeps them (HDF5; Younis et al. 2024, Minari), so that Minari and d3rlpy read them too.

What Minari has no field for stands where it allows for more: the probability of each action under the behaviour policy in the
infos (`probability`), instance hash and behaviour policy in the episodes' attributes, layout and objective in the metadata.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UserError
from bench.logs.episodes import Episodes
from bench.simulator.view import Layout

OWN = "scheduling"  # our key in Minari's metadata
Progress = Callable[[int, int, str], None]


def write(folder: Path, episodes: Episodes, facts: Mapping[str, Any]) -> None:
    """Write a log to `folder`/data, as MINARI_DATASETS_PATH/NAME would have it; whole or not at all. `facts`: for people."""
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "data").mkdir(parents=True)
    space = spaces.Box(-np.inf, np.inf, (episodes.layout.size,), np.float32)
    storage = MinariStorage.new(
        partial / "data", space, spaces.Discrete(episodes.layout.actions), data_format="hdf5"
    )
    buffers, first = [], episodes.first
    for e, length in enumerate(episodes.length.tolist()):
        rows, state = slice(first[e], first[e] + length), int(first[e]) + e
        known = {} if episodes.probability is None else {"probability": episodes.probability[rows]}
        buffers.append(
            EpisodeBuffer(
                id=e,
                observations=episodes.observation[state : state + length + 1],
                actions=episodes.action[rows],
                rewards=episodes.reward[rows],
                terminations=episodes.terminated[rows],
                truncations=episodes.truncated[rows],
                infos=known,
            )
        )
    storage.update_episodes(buffers)
    own = zip(episodes.instance, episodes.behaviour, strict=True)
    storage.update_episode_metadata(
        [{"instance": instance, "behaviour": behaviour} for instance, behaviour in own]
    )
    about = {
        "layout": list(episodes.layout),
        "objective": episodes.objective,
        "hash": episodes.hash,
        "card": dict(facts),
    }
    storage.update_metadata(
        {"dataset_id": episodes.name, "minari_version": _minari_version(), OWN: json.dumps(about)}
    )
    (partial / "CARD.md").write_text(_card(episodes, facts))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _card(episodes: Episodes, facts: Mapping[str, Any]) -> str:
    """The data card for people: what was logged, how it was made, and what an observation holds."""
    k, m, r = episodes.layout
    lines = [
        f"# {episodes.name}",
        "",
        *([f"- command: `{facts['command']}`"] if facts.get("command") else []),
        f"- hash: {episodes.hash}",
    ]
    lines += [f"- {name}: {value}" for name, value in facts.items() if name != "command"]
    lines += [
        "",
        f"Observations: {episodes.layout.size} float32, for K = {k} tasks, M = {m} agents, R = {r} resources, as in",
    ]
    lines += [
        "bench/simulator/view.py; the last K * M + 1 are the mask of legal actions (k * M + a, K * M = wait), before it"
    ]
    lines += [
        f"the scale of the return, which no policy may read. Rewards count {episodes.objective}; an episode's sum is its"
    ]
    lines += [
        "return, -objective / scale. `infos/probability`: of each action under whoever decided, where it is known."
    ]
    return "\n".join([*lines, ""])


def read(folder: Path) -> Episodes:
    """Inverse of `write`; whatever else of Minari's has our metadata is read too.

    Raises:
        UserError: naming the file, where it cannot be read or is not what was written.
    """
    about, name = _about(folder), folder.name
    try:
        from minari.dataset.minari_storage import MinariStorage

        storage = MinariStorage.read(folder / "data")
        indices = range(storage.total_episodes)
        rows, notes = (
            list(storage.get_episodes(indices)),
            list(storage.get_episode_metadata(indices)),
        )
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        known = all("probability" in (infos or {}) for infos in columns["infos"])
    except (
        Exception
    ) as error:  # h5py and Minari raise many kinds for a file that is cut short or something else
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"logs: {folder / 'data'} cannot be read ({reason}); it may be cut short, delete the folder"
        ) from None
    episodes = Episodes(
        name, about["layout"], about["objective"],
        length=np.array([len(row) for row in columns["rewards"]]),
        observation=np.concatenate(columns["observations"]).astype(np.float32, copy=False),
        action=np.concatenate(columns["actions"]).astype(np.int64, copy=False),
        reward=np.concatenate(columns["rewards"]).astype(np.float64, copy=False),
        terminated=np.concatenate(columns["terminations"]).astype(bool),
        truncated=np.concatenate(columns["truncations"]).astype(bool),
        probability=np.concatenate([infos["probability"] for infos in columns["infos"]]) if known else None,
        **{key: tuple(note.get(key, "") for note in notes) for key in ("instance", "behaviour")},
    )  # fmt: skip
    if episodes.hash != about["hash"]:
        raise UserError(f"logs {name}: its content hashes to {episodes.hash[:12]}, its card says {about['hash'][:12]}; it was "
                        f"changed after it was written. Delete {folder} to record it again")  # fmt: skip
    return episodes


def card(folder: Path) -> dict[str, Any]:
    """What is said of a log beside its data: `card`'s facts, its layout, objective and hash."""
    return _about(folder)


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = dict(json.loads(json.loads((folder / "data" / "metadata.json").read_text())[OWN]))
        return {
            **about,
            "layout": Layout(*about["layout"]),
            "objective": str(about["objective"]),
            "hash": str(about["hash"]),
        }
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"logs: {folder} holds no log of this suite ({reason}); it may be cut short, delete the folder"
        ) from None


def _minari_version() -> str:
    import minari

    return str(minari.__version__)
