"""Every yaml of conf/dataset builds a dataset; its splits are checked where no file is needed."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from bench.contracts import SPLITS, Dataset
from bench.instance_set import check
from bench.setting import Setting

FILES = sorted((Path(__file__).parents[2] / "conf" / "dataset").glob("*.yaml"))
SETTING = ("track", "objective", "mode", "backfill", "observe", "event_order")


def load(file):
    return OmegaConf.load(file)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_yaml_builds_a_dataset_and_has_a_description(file):
    lines = file.read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# ")
    config = load(file)
    data = instantiate(config.dataset)
    assert isinstance(data, Dataset)
    assert data.name == file.stem
    assert set(data.hashes) <= set(SPLITS)
    assert set(config) <= {"dataset", "defaults", *SETTING}
    Setting(**{key: config[key] for key in SETTING if key in config})


def needs_a_file(file):
    dataset = load(file).dataset
    return "path" in dataset or "path" in dataset.get("trace", {})


@pytest.mark.parametrize("file", [f for f in FILES if not needs_a_file(f)], ids=lambda f: f.stem)
def test_splits_are_pinned_disjoint_and_valid_in_their_setting(file):
    config = load(file)
    data = instantiate(config.dataset)
    setting = Setting(**{key: config[key] for key in SETTING if key in config})
    first = {
        split: [i for _, i in zip(range(40), data.instances(split), strict=False)]
        for split in SPLITS
    }
    train, validation, test = ({instance.hash() for instance in first[split]} for split in SPLITS)
    assert train.isdisjoint(validation | test)
    assert validation.isdisjoint(test)
    for instances in first.values():
        assert instances
        for instance in instances:
            setting.check(instance)
    for split in ("validation", "test"):
        assert check(split, data.instances(split), data.hashes) == data.hashes[split]
