"""GAP files and recipes: hand-made files, damaged files, and the published instances."""

import csv
import gzip

import numpy as np
import pytest

from bench.errors import UserError
from bench.instance_set import set_hash
from datasets.gap import Gap, GapRecipe, draw

ONE = "2 3\n 1 0 5\n4 -2 6\n 1 2 3 4\n 5 6\n 7 8\n"  # rows wrap


def write(folder, text, name="p.txt"):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def test_hand_made_file_is_read(tmp_path):
    [instance] = Gap(path=str(write(tmp_path, ONE))).instances("test")
    assert (instance.sharing, instance.sense, instance.offset, instance.name) == (
        "budget",
        "min",
        3,
        "p",
    )
    assert instance.duration.tolist() == [[4, 7], [3, 1], [8, 9]]
    assert instance.demand[:, :, 0].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert instance.capacity.tolist() == [[7], [8]]
    assert instance.original(4 + 3 + 9) == 1 + 0 + 6


def test_maximisation_reports_the_original_scale(tmp_path):
    [instance] = Gap(path=str(write(tmp_path, ONE, "p.txt.gz")), sense="max").instances("test")
    assert (instance.sense, instance.offset) == ("max", 7)
    assert instance.duration.min() == 1
    assert instance.original(instance.duration[[0, 1, 2], [0, 0, 1]].sum()) == 1 + 0 + 6


def test_copies_are_not_problems_of_their_own(tmp_path, caplog):
    for name in ("gap1", "gap1~", "gap1.bak", "gap1.txt.orig"):
        write(tmp_path, ONE, name)
    write(tmp_path, "2\n" + ONE + "1 4\n1 1 1 1\n2 2 2 2\n9\n", "gap2.txt")
    with caplog.at_level("INFO"):
        names = [i.name for i in Gap(path=str(tmp_path), max_tasks=3).instances("test")]
    assert names == ["gap1", "gap2-1"]
    assert caplog.messages == [
        f"{tmp_path}: 3 problems read, 2 used, 1 left out: 1 with more than 3 tasks; "
        "not read in the folder: gap1.bak, gap1.txt.orig, gap1~"
    ]
    write(tmp_path, ONE.replace("7", "9"), "gap1.txt")
    with pytest.raises(UserError, match=r"gap1 and gap1\.txt both hold gap1; delete one of them"):
        list(Gap(path=str(tmp_path)).instances("test"))


def test_a_byte_order_mark_and_blank_lines_are_read(tmp_path):
    [expected] = Gap(path=str(write(tmp_path, ONE))).instances("test")
    (tmp_path / "p.txt").write_bytes(ONE.replace("\n", "\r\n\r\n").encode("utf-8-sig"))
    [instance] = Gap(path=str(tmp_path)).instances("test")
    assert instance.hash() == expected.hash()


def test_files_of_several_problems_and_filters(tmp_path):
    write(tmp_path, "2\n" + ONE + "1 4\n1 1 1 1\n2 2 2 2\n9\n", "gap1.txt")
    write(tmp_path, ONE, "other.txt")
    names = [i.name for i in Gap(path=str(tmp_path)).instances("test")]
    assert names == ["gap1-1", "gap1-2", "other"]
    assert [i.name for i in Gap(path=str(tmp_path), pattern="gap*").instances("test")] == [
        "gap1-1",
        "gap1-2",
    ]
    assert [i.name for i in Gap(path=str(tmp_path), max_tasks=3).instances("test")] == [
        "gap1-1",
        "other",
    ]
    with pytest.raises(UserError, match=r"dataset\.max_tasks: value 2: none of 3 problems"):
        list(Gap(path=str(tmp_path), max_tasks=2).instances("test"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ONE[:-3], "cut short: problem 1 .2 x 3. needs 16 numbers, the file has 15"),
        (ONE + "1", "17 numbers, but its sizes account for 16"),
        (ONE.replace("-2", "x"), "line 3: value 'x': is not a number"),
        (ONE.replace("-2", "1_0"), "line 3: value '1_0': is not a number"),
        (ONE.replace("-2", "nan"), "line 3: value 'nan': is not a number"),
        (ONE.replace("-2", "1.5"), "line 3: value '1.5': is not an integer"),
        ("2\n" + ONE, "problem 2 must begin with m n"),
        ("", "must begin with m n"),
        ("0 3\n", "must begin with m n"),
        (ONE.replace(" 7 8", " 0 0"), "problem 1: demand.* no agent can run task 0"),
    ],
)
def test_damaged_files_are_user_errors(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"p\.txt: .*{message}"):
        list(Gap(path=str(write(tmp_path, text))).instances("test"))


def test_training_problems_have_the_sizes_of_the_files(tmp_path):
    data = Gap(path=str(write(tmp_path, ONE)), train=4, validation=2)
    instances = {split: list(data.instances(split)) for split in ("train", "validation", "test")}
    assert {(i.n_tasks, i.n_agents) for split in instances.values() for i in split} == {(3, 2)}
    hashes = [i.hash() for split in instances.values() for i in split]
    assert len(set(hashes)) == len(hashes) == 7


@pytest.mark.parametrize(
    ("recipe", "uses", "costs"),
    [("c", (5, 25), (10, 50)), ("d", (1, 100), (1, 120)), ("e", (1, 90), (1, 1001))],
)
def test_recipes_draw_the_published_ranges(recipe, uses, costs):
    problem = draw(recipe, 5, 60, np.random.default_rng(0), "min")
    use = problem.demand[:, :, 0]
    cost = problem.duration - problem.offset
    assert uses[0] <= use.min() < 0.3 * uses[1] < 0.6 * uses[1] < use.max() <= uses[1]
    assert costs[0] <= cost.min() < cost.max() <= costs[1]
    assert problem.capacity[:, 0].tolist() == [int(0.8 * total / 5) for total in use.sum(axis=0)]
    if recipe != "c":  # the hard classes: cost and use are negatively correlated
        assert np.corrcoef(use.ravel(), cost.ravel())[0, 1] < -0.5


def test_recipe_sets_are_reproducible_and_differ_by_seed():
    sets = [set_hash(GapRecipe("g", test=3, seed=seed).instances("test")) for seed in (0, 0, 1)]
    assert sets[0] == sets[1] != sets[2]


@pytest.mark.parametrize("option", [{"sense": "most"}, {"recipe": "f"}])
def test_unknown_options_are_user_errors(option):
    with pytest.raises(UserError, match=rf"dataset\.{next(iter(option))}"):
        Gap(**option)


@pytest.mark.external
@pytest.mark.parametrize("sense", ["min", "max"])
def test_published_instances_agree_with_their_certificates(external, sense):
    data = Gap(path=str(external / "gap" / "instances"), sense=sense)
    problems = {instance.name: instance for instance in data.instances("test")}
    with open(external / "gap" / "optima.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert problems.keys() == rows.keys()
    assert len(problems) == 70
    checked = 0
    for name, problem in problems.items():
        assert (problem.n_agents, problem.n_tasks) == (
            int(rows[name]["agents"]),
            int(rows[name]["tasks"]),
        )
        certificate = external / "gap" / "certificates" / f"{name}.txt"
        if certificate.exists():
            x = np.array(certificate.read_text().split(), dtype=int)
            tasks = np.arange(problem.n_tasks)
            assert problem.original(problem.duration[tasks, x].sum()) == int(
                rows[name]["certificate_cost"]
            )
            used = np.bincount(x, weights=problem.demand[tasks, x, 0], minlength=problem.n_agents)
            assert (used <= problem.capacity[:, 0]).all() == (
                rows[name]["certificate_feasible"] == "1"
            )
            checked += 1
    assert checked == 70
