"""Logged episodes as files of Minari (HDF5; Younis et al. 2024), which Minari and d3rlpy read too.

What Minari has no field for is stored where it allows additions: the probability of each action
under the behaviour policy in the infos (`probability`), instance hash and behaviour policy in the
attributes of the episodes, layout and objective in the metadata.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import UserError
from bench.files import sync, write_text
from bench.logs.episodes import LoggedEpisodes
from bench.simulator.view import Layout
from datasets._reading import Reading

METADATA_KEY = "scheduling"  # key of this suite in Minari's metadata


def write(folder: Path, episodes: LoggedEpisodes, facts: Mapping[str, Any]) -> None:
    """Write a log to `folder`/data, where MINARI_DATASETS_PATH/NAME expects it.

    The folder is written completely or not at all.

    Parameters
    ----------
    folder
        Folder of the log; an existing one is replaced.
    episodes
        The log.
    facts
        JSON values for the data card.
    """
    from gymnasium import spaces
    from minari.dataset.minari_storage import MinariStorage

    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "data").mkdir(parents=True)
    space = spaces.Box(-np.inf, np.inf, (episodes.layout.size,), np.float32)
    storage = MinariStorage.new(
        partial / "data", space, spaces.Discrete(episodes.layout.actions), data_format="hdf5"
    )
    storage.update_episodes(_episode_buffers(episodes))
    attributes = zip(episodes.instance, episodes.behaviour, strict=True)
    storage.update_episode_metadata(
        [{"instance": instance, "behaviour": behaviour} for instance, behaviour in attributes]
    )
    card = {
        "layout": list(episodes.layout),
        "objective": episodes.objective,
        "hash": episodes.hash,
        "card": dict(facts),
    }
    storage.update_metadata(
        {
            "dataset_id": episodes.name,
            "minari_version": _minari_version(),
            METADATA_KEY: json.dumps(card),
        }
    )
    write_text(partial / "CARD.md", _card_text(episodes, facts))
    for file in (partial / "data").iterdir():
        sync(file)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    sync(folder.parent)


def _episode_buffers(episodes: LoggedEpisodes) -> list[Any]:
    """Return the episodes as Minari's `EpisodeBuffer`s."""
    from minari.data_collector import EpisodeBuffer

    buffers = []
    first = episodes.first
    for e, length in enumerate(episodes.length.tolist()):
        rows = slice(first[e], first[e] + length)
        state = int(first[e]) + e
        infos = {} if episodes.probability is None else {"probability": episodes.probability[rows]}
        buffers.append(
            EpisodeBuffer(
                id=e,
                observations=episodes.observation[state : state + length + 1],
                actions=episodes.action[rows],
                rewards=episodes.reward[rows],
                terminations=episodes.terminated[rows],
                truncations=episodes.truncated[rows],
                infos=infos,
            )
        )
    return buffers


def _card_text(episodes: LoggedEpisodes, facts: Mapping[str, Any]) -> str:
    """Return the data card: how the log was made, its facts, and what an observation holds."""
    k, m, r = episodes.layout
    command = [f"- command: `{facts['command']}`"] if facts.get("command") else []
    return "\n".join(
        [
            f"# {episodes.name}",
            "",
            *command,
            f"- hash: {episodes.hash}",
            *(f"- {name}: {value}" for name, value in facts.items() if name != "command"),
            "",
            f"Observations: {episodes.layout.size} float32, for K = {k} tasks, M = {m} agents, "
            f"R = {r} resources, as in",
            "bench/simulator/view.py. The last K * M + 1 are the mask of legal actions (k * M + a, "
            "K * M = wait),",
            "before it is the scale of the return, which no policy may read. Rewards count "
            f"{episodes.objective};",
            "the sum over an episode is its return, -objective / scale. `infos/probability`: "
            "probability of each",
            "action under the behaviour policy, where it is known.",
            "",
        ]
    )


def read(folder: Path) -> LoggedEpisodes:
    """Read the log that `write` wrote, or another Minari dataset with this suite's metadata.

    Raises
    ------
    UserError
        Naming the file, where it cannot be read or its content was changed.
    """
    card = read_card(folder)
    name = folder.name
    try:
        from minari.dataset.minari_storage import MinariStorage

        storage = MinariStorage.read(folder / "data")
        indices = range(storage.total_episodes)
        rows = list(storage.get_episodes(indices))
        attributes = list(storage.get_episode_metadata(indices))
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        known = all("probability" in (infos or {}) for infos in columns["infos"])
    except Exception as error:  # h5py and Minari raise many kinds for a damaged or foreign file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"logs: {folder / 'data'} cannot be read ({reason}); it may be cut short, delete the "
            "folder to make the log again"
        ) from None
    infos = columns["infos"]
    episodes = LoggedEpisodes(
        name,
        card["layout"],
        card["objective"],
        length=np.array([len(row) for row in columns["rewards"]]),
        observation=np.concatenate(columns["observations"]).astype(np.float32, copy=False),
        action=np.concatenate(columns["actions"]).astype(np.int64, copy=False),
        reward=np.concatenate(columns["rewards"]).astype(np.float64, copy=False),
        terminated=np.concatenate(columns["terminations"]).astype(bool),
        truncated=np.concatenate(columns["truncations"]).astype(bool),
        probability=np.concatenate([one["probability"] for one in infos]) if known else None,
        instance=tuple(one.get("instance", "") for one in attributes),
        behaviour=tuple(one.get("behaviour", "") for one in attributes),
    )
    if episodes.hash != card["hash"]:
        raise UserError(
            f"logs {name}: its content hashes to {episodes.hash[:12]}, its card says "
            f"{card['hash'][:12]}; it was changed after it was written. Delete {folder} to make "
            "the log again"
        )
    reading = Reading(folder, "episodes")
    reading.use(len(episodes.length))
    reading.finish()
    return episodes


def read_card(folder: Path) -> dict[str, Any]:
    """Read what is stored of a log beside its data.

    Returns
    -------
    dict
        `layout`, `objective`, `hash`, and `card`: the facts that were given to `write`.

    Raises
    ------
    UserError
        Where the folder holds no log of this suite.
    """
    try:
        metadata = json.loads((folder / "data" / "metadata.json").read_text())
        card = dict(json.loads(metadata[METADATA_KEY]))
        return {
            **card,
            "layout": Layout(*card["layout"]),
            "objective": str(card["objective"]),
            "hash": str(card["hash"]),
        }
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(
            f"logs: {folder} holds no log of this suite ({reason}); it may be cut short, delete "
            "the folder to make the log again"
        ) from None


def _minari_version() -> str:
    import minari

    return str(minari.__version__)
