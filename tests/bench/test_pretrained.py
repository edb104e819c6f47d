"""Pretrained policies: a run becomes one, and their files are checked."""

import json
import shutil
from types import SimpleNamespace

import pytest

from bench import pretrained
from bench.__main__ import main as bench
from bench.cli.options import check
from bench.errors import UserError
from bench.pretrained import __main__ as program
from bench.run.inputs import named_content
from solvers.networks.policy import choose_device, load_policy

CPU = choose_device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Let the policies be in an empty folder."""
    place = tmp_path / "policies"
    place.mkdir()
    monkeypatch.setattr(pretrained, "FOLDER", place)
    return place


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a short training at `tiny`."""
    runs = tmp_path_factory.mktemp("runs")
    line = "+solver=ppo_greedy dataset=tiny budget.decisions=2000 solver.width=8 baselines=[]"
    options = f"tracking=off runs={runs} cache={runs}/cache reference.seconds=0 isolate=false"
    assert bench([*line.split(), *options.split()]) == 0
    (found,) = runs.glob("tiny/*/policy.pt")
    return found.parent


def test_a_finished_run_becomes_a_policy_with_a_card(run, folder, capsys):
    assert program.main(["add", str(run), "tiny-short"]) == 0
    card = pretrained.read_card("tiny-short")
    assert card["training"]["dataset"] == "tiny"
    assert card["training"]["options"]["solver"]["width"] == 8
    assert card["training"]["decisions"] >= 2000
    assert "pretrained/tiny-short: ppo_greedy on tiny" in capsys.readouterr().out
    weights = load_policy("pretrained/tiny-short", CPU).network.state_dict()
    for name, tensor in load_policy(run / "policy.pt", CPU).network.state_dict().items():
        assert tensor.equal(weights[name])
    tests = card["training"]["set_hash"]
    assert pretrained.trained_for(tests, "all", "total_time", "fit") == ["tiny-short"]
    assert pretrained.trained_for(tests, "arrived", "total_time", "fit") == []


def test_a_file_that_is_not_the_one_of_its_card_is_refused(run, folder):
    program.add(run, "tiny-short")
    (folder / "tiny-short.pt").write_bytes(b"other")
    with pytest.raises(UserError, match=r"pretrained/tiny-short: .*not the file of its card"):
        load_policy("pretrained/tiny-short", CPU)


def test_an_unknown_name_lists_those_there_are(run, folder):
    program.add(run, "tiny-short")
    config = {"_target_": "solvers.ppo.PPO", "checkpoint": "pretrained/tiny"}
    with pytest.raises(UserError, match=r"pretrained/tiny: no such policy.*tiny-short"):
        check("solver", config, lambda name: __import__("solvers.ppo").ppo.PPO)


def test_a_training_names_the_pretrained_policies_for_its_instances(run, folder, tmp_path, capsys):
    program.add(run, "tiny-short")
    line = "+solver=ppo_greedy dataset=tiny budget.decisions=100 solver.width=8 baselines=[]"
    options = f"tracking=off runs={tmp_path} cache={tmp_path}/cache reference.seconds=0"
    checkpoint = "solver.checkpoint=pretrained/tiny-short"
    smaller = ["dataset.test=2", "~dataset.hashes"]
    for given, named in ([], True), ([checkpoint], False), (smaller, False):
        assert bench([*line.split(), *options.split(), *given]) == 0
        shown = capsys.readouterr().err
        assert (f"pretrained policy available: {checkpoint}" in shown) == named


def test_gaps_are_kept_per_problem_and_the_card_holds_no_folder(
    run, folder, tmp_path, capfd, monkeypatch
):
    program.add(run, "tiny-short")
    here = SimpleNamespace(  # another process would not know the folder of this test
        run=lambda command, check: SimpleNamespace(returncode=bench(command[3:]))
    )
    monkeypatch.setattr(program, "subprocess", here)
    options = [f"cache={tmp_path}/cache", "isolate=false"]
    for more in ([], ["objective=makespan"], []):
        program.evaluate("tiny-short", [*options, *more])
    card = pretrained.read_card("tiny-short")
    assert [one["objective"] for one in card["gaps"]] == ["makespan", "total_time"]
    for one in card["gaps"]:
        assert one["interval"][0] <= one["gap_mean"] <= one["interval"][1]
    kept = program.without_folders({"a": ["/home/me/x.pt", "pretrained/y", 3]})
    assert kept == {"a": ["x.pt", "pretrained/y", 3]}
    with pytest.raises(UserError, match="exists; remove"):
        program.add(run, "tiny-short")
    assert program.main([]) == 0
    assert "tiny (test, schedule): gap" in capfd.readouterr().out


def test_a_policy_survives_the_form_of_hugging_face(run, folder, tmp_path):
    program.add(run, "tiny-short", "A note.")
    card = pretrained.read_card("tiny-short")
    card["gaps"] = [
        {key: card["training"][key] for key in program.PROBLEM}
        | {"n_instances": 32, "gap_mean": 0.05, "objective_mean": 7.0, "interval": [0.04, 0.06]}
    ]
    program.write_card("tiny-short", card)
    model = tmp_path / "model"
    assert program.main(["export", "tiny-short", str(model)]) == 0
    assert {path.name for path in model.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    _, header, body = (model / "README.md").read_text().split("---\n", 2)
    (index,) = json.loads(header)["model-index"]  # JSON is YAML
    assert index["results"][0]["metrics"][0]["value"] == 0.05
    assert "| tiny | test | schedule | total_time | fit | 32 | 5.00% | [4.00%, 6.00%] |" in body
    assert program.main(["import", str(model), "again"]) == 0
    again = pretrained.read_card("again")
    assert {**again, "sha256": None} == {**card, "sha256": None}
    first, second = (load_policy(f"pretrained/{name}", CPU) for name in ("tiny-short", "again"))
    assert first.network.shape == second.network.shape
    assert [first.window, first.shaped, first.training] == [
        second.window,
        second.shaped,
        second.training,
    ]
    for name, tensor in first.network.state_dict().items():
        assert tensor.equal(second.network.state_dict()[name])


def test_a_damaged_model_folder_is_one_error(run, folder, tmp_path):
    program.add(run, "tiny-short")
    model = tmp_path / "model"
    program.main(["export", "tiny-short", str(model)])
    with pytest.raises(UserError, match="exists; remove"):
        program.keep("tiny-short", *program.hugging_face.read(model))
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"safetensors is not the file of config\.json"):
        program.hugging_face.read(model)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors does not exist; download"):
        program.hugging_face.read(model)
    weights.write_bytes(whole)
    config = model / "config.json"
    good = json.loads(config.read_text())
    bad = [
        "no JSON",
        json.dumps({"schema": 1}),
        json.dumps(good | {"card": {}}),
        json.dumps(good | {"card": good["card"] | {"sha256": "00"}}),
        json.dumps(good | {"policy": [1]}),
        json.dumps(good | {"card": [1]}),
        json.dumps(good | {"card": good["card"] | {"note": float("nan")}}),
    ]
    for text in bad:
        config.write_text(text)
        with pytest.raises(UserError, match=r"config\.json was not written by this version"):
            program.hugging_face.read(model)


def test_other_options_that_begin_like_one_are_no_policies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "trace.csv").write_text("1")
    ((name, digest),) = named_content({"path": "pretrained/trace.csv"})
    assert name == "pretrained/trace.csv"
    assert len(digest) == 64


def test_a_policy_counts_in_a_run_by_its_content(run, folder):
    program.add(run, "tiny-short")
    found = dict(named_content({"checkpoint": "pretrained/tiny-short"}))
    assert found == {"pretrained/tiny-short": pretrained.read_card("tiny-short")["sha256"]}


def test_a_run_that_trained_nothing_is_no_policy(run, folder, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    record = json.loads((copy / "result.json").read_text())
    del record["learning/decisions"]
    (copy / "result.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="trained nothing"):
        program.add(copy, "tiny")
    (copy / "policy.pt").unlink()
    with pytest.raises(UserError, match=r"policy\.pt does not exist"):
        program.add(copy, "tiny")
    with pytest.raises(UserError, match="letters, digits"):
        program.add(run, "../tiny")


@pytest.mark.parametrize("name", pretrained.names())
def test_each_policy_is_the_file_of_its_card_and_has_a_gap(name):
    card = pretrained.read_card(name)
    assert pretrained.checkpoint_file(f"pretrained/{name}").is_file()
    assert card["gaps"], "measure them: python -m bench.pretrained evaluate NAME"
    assert len(card["training"]["git_commit"]) >= 40
