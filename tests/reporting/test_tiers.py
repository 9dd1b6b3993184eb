import json

import numpy as np
import pytest

from agentrl import errors, types
from agentrl.envs import tasks
from agentrl.reporting import tiers


def episode(item_id, success, ending=types.Ending.FAILED):
    task = types.Task("toy", item_id, 0, 0)
    tokens = np.zeros(1, np.int32)
    turn = types.Turn(tokens, tokens, np.zeros(1, np.float32), "", "", 0.0, True)
    return types.Trajectory(task, (turn,), ending, 0, success, float(success))


def test_tiers_follow_the_pass_rate(tmp_path):
    path = tmp_path / "tiers.jsonl"
    tier_file = tiers.open_tier_file(path, 2, 0.5, "run step 3")
    error = episode("toy_2", False, types.Ending.ENV_ERROR)
    hung = episode("toy_2", False, types.Ending.ENV_TIMEOUT)
    tier_file.add(
        [
            *(episode("toy_0", False), episode("toy_0", True)),
            *(episode("toy_1", False), episode("toy_1", False)),
            *(episode("toy_2", True), error, hung),
            *(episode("toy_3", False, types.Ending.ENV_ERROR), error),
        ]
    )
    lines = list(map(json.loads, path.read_text().splitlines()))
    assert lines[0] == {
        "item_id": "toy_0",
        "n": 2,
        "pass_rate": 0.5,
        "tier": "easy",
        "samples": 2,
        "threshold": 0.5,
        "policy": "run step 3",
    }
    found = [(line["item_id"], line["n"], line["tier"]) for line in lines[1:]]
    assert found == [("toy_1", 2, "hard"), ("toy_2", 1, "easy")]
    known, name = tasks.read_tiers(path)
    assert known == {"toy_0": "easy", "toy_1": "hard", "toy_2": "easy"}
    assert name == f"tiers.jsonl {tasks.digest_file(path)} (easy from pass rate 0.5)"


def test_a_file_is_continued_where_it_ends(tmp_path):
    path = tmp_path / "tiers.jsonl"
    first = tiers.open_tier_file(path, 1, 0.5, "run")
    first.add([episode("toy_0", True)])
    whole = path.read_text()
    path.write_text(whole + '{"item_id": "toy_1", "n"')

    tier_file = tiers.open_tier_file(path, 1, 0.5, "run")

    assert list(tier_file.lines) == ["toy_0"]
    assert tier_file.add([episode("toy_0", False), episode("toy_1", False)]) == [
        tier_file.lines["toy_1"]
    ]
    assert path.read_text().startswith(whole)
    assert list(tasks.read_tiers(path)[0].values()) == ["easy", "hard"]


@pytest.mark.parametrize("other", [(2, 0.5, "run"), (1, 0.25, "run"), (1, 0.5, "b")])
def test_another_calibration_is_refused(tmp_path, other):
    path = tmp_path / "tiers.jsonl"
    tiers.open_tier_file(path, 1, 0.5, "run").add([episode("toy_0", True)])
    before = path.read_text()
    with pytest.raises(errors.ConfigError, match=r"tiers\.jsonl holds another"):
        tiers.open_tier_file(path, *other)
    assert path.read_text() == before
