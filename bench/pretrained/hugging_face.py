"""Pretrained policies as Hugging Face model folders: README.md, config.json, model.safetensors.

The folder is what `huggingface_hub` uploads and downloads; nothing here uses a network. config.json
holds the card and all of a policy's file but its weights, with the SHA-256 of model.safetensors.
The README's header follows https://huggingface.co/docs/hub/model-cards (gaps as `model-index`).
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from bench.errors import UserError, one_line
from bench.files import file_hash, write_bytes, write_text
from bench.instance import InstanceError, read_json
from bench.pretrained import (
    COST,
    MEASURED,
    PREFIX,
    PROBLEM,
    TRAINING,
    checkpoint_file,
    read_card,
)

SCHEMA = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
NETWORK = "network"  # the weights, in a policy's file
CARD = ("note", "training", "gaps")  # of a card, what is exported


def export(name: str, folder: Path) -> None:
    """Write a pretrained policy as a model folder; its files there are replaced."""
    import safetensors.torch
    import torch

    state = torch.load(checkpoint_file(PREFIX + name), map_location="cpu", weights_only=True)
    weights = {key: tensor.contiguous() for key, tensor in state.pop(NETWORK).items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / WEIGHTS, safetensors.torch.save(weights, metadata={"format": "pt"}))
    known = read_card(name)
    card = {key: known[key] for key in CARD}
    content = {
        "schema": SCHEMA,
        "library_name": "dl-scheduling-bench",
        "weights_sha256": file_hash(folder / WEIGHTS),
        "policy": state,
        "card": card,
    }
    write_text(folder / CONFIG, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text(folder / "README.md", model_card(name, card))


def read(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the policy's file and the card, without its hash, of a model folder.

    Raises
    ------
    UserError
        Naming the file that is missing, damaged or foreign.
    """
    import safetensors.torch
    import torch

    config, weights = folder / CONFIG, folder / WEIGHTS
    for path in (config, weights):
        if not path.is_file():
            raise UserError(f"folder: {path} does not exist; download the whole model folder")
    content = read_config(config)
    if file_hash(weights) != content["weights_sha256"]:
        raise UserError(
            f"folder: {weights} is not the file of {CONFIG} (SHA-256 "
            f"{str(content['weights_sha256'])[:12]}...); download both again"
        )
    try:
        tensors = safetensors.torch.load_file(weights)
    except Exception as error:  # the library raises many types
        raise UserError(
            f"folder: {weights} cannot be read ({one_line(error, 100)}); export the policy again"
        ) from None
    buffer = io.BytesIO()
    torch.save({**content["policy"], NETWORK: tensors}, buffer)
    return buffer.getvalue(), content["card"]


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of config.json, whose form is checked.

    Raises
    ------
    UserError
        If it is damaged or another program's.
    """
    training = {*TRAINING, *COST, "hardware"}
    try:
        content: Any = read_json(path)
        card, policy = content["card"], content["policy"]
        found = [content["schema"], sorted(card), training <= set(card["training"])]
        right = found == [SCHEMA, sorted(CARD), True] and isinstance(policy, dict)
        for gap in card["gaps"]:
            right &= {*PROBLEM, *MEASURED, "interval"} <= set(gap)
        json.dumps(card, allow_nan=False)
    except (InstanceError, KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise UserError(
            f"folder: {path} was not written by this version of the suite, or is damaged; export "
            "the policy again"
        )
    found_config: dict[str, Any] = content
    return found_config


def model_card(name: str, card: dict[str, Any]) -> str:
    """Return README.md: a header that machines read, and the same facts for people."""
    training = card["training"]
    header = {
        "license": "mit",
        "library_name": "dl-scheduling-bench",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["scheduling", "combinatorial-optimization", training["solver"]],
        "model-index": [{"name": name, "results": [result(one) for one in card["gaps"]]}],
    }
    observed = {"all": "all tasks, also future ones", "arrived": "tasks that have arrived"}
    gaps = "\n".join(
        f"| {one['dataset']} | {one['split']} | {one['track']} | {one['objective']} "
        f"| {one['mode']} | {one['n_instances']} | {one['gap_mean']:.2%} | {interval(one)} |"
        for one in card["gaps"]
    )
    return f"""---
{json.dumps(header, indent=1)}
---

# {name}

Assigns deep-learning tasks to agents. {card["note"]}

| training | |
|---|---|
| method | `{training["solver"]}` |
| data set | `{training["dataset"]}`, track {training["track"]}, objective {training["objective"]} |
| observes | {observed.get(training["observe"], training["observe"])} |
| decisions | {training["decisions"]:,} |
| cost | {training["cpu_seconds"]:,.0f} CPU seconds, {training["seconds"]:,.0f} seconds |
| hardware | {", ".join(f"{key} {value}" for key, value in training["hardware"].items() if value)} |
| seed, commit | {training["seed"]}, {training["git_commit"]} |

Gap of greedy decisions to the best certified bound (95 % interval over the instances):

| data set | split | track | objective | mode | instances | gap | interval |
|---|---|---|---|---|---|---|---|
{gaps}

```bash
python -m bench.pretrained import FOLDER {name}
python -m bench.pretrained evaluate {name}
```
"""


def result(gap: dict[str, Any]) -> dict[str, Any]:
    """Return one gap as an entry of a model index."""
    return {
        "task": {"type": "reinforcement-learning", "name": "scheduling"},
        "dataset": {
            "type": gap["dataset"],
            "name": f"{gap['dataset']} ({gap['track']}, {gap['objective']})",
            "split": gap["split"],
        },
        "metrics": [{"type": "gap", "name": "mean gap", "value": gap["gap_mean"]}],
    }


def interval(gap: dict[str, Any]) -> str:
    """Return the confidence interval of a gap as text."""
    if gap["interval"] is None:
        return "–"
    low, high = gap["interval"]
    return f"[{low:.2%}, {high:.2%}]"
