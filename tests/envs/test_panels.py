"""Panels as files: what they say, and that they select the same tasks again."""

import json

import pytest

from agentrl.envs import base, panels, tasks

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
    with pytest.raises(SystemExit, match=r"Did you mean \['textcraft'\]"):
        panels.main([str(tmp_path), "textcrft"])
