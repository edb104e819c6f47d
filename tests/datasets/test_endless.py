"""An endless train split begins with the numbered instances and shares none with other splits."""

import itertools

import pytest

from bench import plugins
from bench.errors import UserError
from bench.protection import TrainingData
from datasets._random import POOL

NAMES = ("small", "gangs_20x3", "unrelated_20x5", "random", "gap_c")


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_where_the_split_ends(name: str) -> None:
    numbered = plugins.load("dataset", name, train=3, hashes=None)
    endless = plugins.load("dataset", name, train="endless")
    data = TrainingData(endless, "a learner")
    assert data.endless
    assert not TrainingData(numbered, "a learner").endless
    first = list(itertools.islice(endless.instances("train"), 3))
    assert [one.hash() for one in first] == [one.hash() for one in numbered.instances("train")]
    assert [data.training_instance(i).hash() for i in range(3)] == [one.hash() for one in first]
    late = data.training_instance(10**6)
    assert late.hash() == endless.training_instance(10**6).hash()
    assert late.name.split("-")[1:3] == ["train", "1000000"]


def test_no_training_instance_is_in_another_split() -> None:
    endless = plugins.load("dataset", "small", train="endless")
    others = {one.hash() for split in ("validation", "test") for one in endless.instances(split)}
    drawn = [endless.training_instance(i).hash() for i in range(POOL, POOL + 50)]
    assert len({*drawn, *others}) == len(drawn) + len(others)


@pytest.mark.parametrize(("train", "rule"), [("ever", "a number or endless"), (-1, "not be neg")])
def test_another_size_is_an_error(train: object, rule: str) -> None:
    with pytest.raises(Exception, match=f"dataset.train: value .*{rule}") as caught:
        plugins.load("dataset", "small", train=train)
    assert isinstance(caught.value.__cause__ or caught.value, UserError)
