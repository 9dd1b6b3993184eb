"""Panels as files: what they say, and that they select the same tasks again."""

import json
import pathlib
import subprocess
import sys

import pytest

from agentrl.envs import base, panels, score_panel, tasks

CONFIG = base.EnvConfig()


def test_a_file_selects_the_tasks_of_its_panel(tmp_path, capsys):
    panels.main([str(tmp_path), "textcraft", "babyai"])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5 and "babyai_test.json: 90 tasks, babyai-2" in printed[-1]
    for name in ("textcraft", "babyai"):
        path = tmp_path / f"{name}_test.json"
        panel = tasks.select_tasks(name, "test", CONFIG)
        again = tasks.select_tasks(name, "test", CONFIG, item_file=path)
        assert again.item_ids == panel.item_ids
        content = json.loads(path.read_text())
        assert (content["version"], content["digest"]) == (panel.version, panel.digest)
        assert len({task["fingerprint"] for task in content["tasks"]}) == len(
            content["tasks"]
        )
        assert content["tasks"][0].keys() == {
            *("item_id", "fingerprint", "tier", "subset")
        }


def test_a_folder_is_asked_for():
    with pytest.raises(SystemExit, match="Which folder"):
        panels.main([])


def test_a_mistyped_environment_is_told(tmp_path):
    with pytest.raises(SystemExit, match=r"Did you mean 'textcraft'"):
        panels.main([str(tmp_path), "textcrft"])


# Scoring on a panel's file.


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "textcraft_test.json"
    path.write_text(json.dumps(panels.describe_panel("textcraft", "test", CONFIG)))
    return path


def write_results(path, tasks_played, samples=2, **changes):
    lines = [
        {"item_id": task["item_id"], "success": n % 2 == 0, "score": 0.5, **changes}
        for task in tasks_played
        for n in range(samples)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_results_of_any_trainer_are_scored_by_a_copy_of_one_file(published, tmp_path):
    panel = json.loads(published.read_text())
    results = write_results(tmp_path / "results.jsonl", panel["tasks"])
    copied = tmp_path / "score_panel.py"
    copied.write_text(pathlib.Path(score_panel.__file__).read_text())
    run = [sys.executable, "-I", str(copied), str(published), str(results)]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "textcraft-1, digest 54aec529db13" in printed
    assert "all                        100 tasks  avg@2 success  50.0%" in printed
    groups = {
        s.name: s for s in score_panel.score(panel, score_panel.read_results(results))
    }
    assert {"all", "easy", "hard", "depth_1"} <= groups.keys()
    assert groups["all"].score == 0.5 and groups["all"].success_error == 0.0


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda tasks: tasks[1:], "equally often"),
        (lambda tasks: tasks + tasks[:1], "equally often"),
        (lambda tasks: [*tasks, {"item_id": "textcraft_543"}], "not of this panel"),
    ],
)
def test_results_that_choose_their_tasks_are_refused(
    published, tmp_path, damage, message
):
    panel = json.loads(published.read_text())
    results = write_results(tmp_path / "results.jsonl", damage(panel["tasks"]))
    with pytest.raises(SystemExit, match=message):
        score_panel.main([str(published), str(results)])


def test_changed_panels_and_wrong_lines_are_refused(published, tmp_path):
    panel = json.loads(published.read_text())
    for changes in ({"success": 0.5}, {"score": "much"}, {"score": float("nan")}):
        wrong = write_results(tmp_path / "wrong.jsonl", panel["tasks"], **changes)
        with pytest.raises(SystemExit, match=r"wrong.jsonl:1: expected an object"):
            score_panel.main([str(published), str(wrong)])
    results = write_results(tmp_path / "results.jsonl", panel["tasks"][1:])
    panel["tasks"] = panel["tasks"][1:]
    published.write_text(json.dumps(panel))
    with pytest.raises(SystemExit, match="was changed"):
        score_panel.main([str(published), str(results)])
