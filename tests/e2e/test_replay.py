"""Every episode that a run stores can be played again, as its report says."""

import os
import pathlib
import shlex
import subprocess
import sys

import commands
import pytest
from rich import console as rich_console

from agentrl.play import episode
from agentrl.transcripts import episodes

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run, in a directory whose name a shell would split."""
    workdir = tmp_path_factory.mktemp("replay") / "a run"
    done = commands.run(
        [sys.executable, "-m", "agentrl.launch.train",
         f"--config={HERE / 'options_experiment.py'}", f"--workdir={workdir}"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return workdir


def test_every_stored_episode_replays_without_difference(workdir):
    endings, played = set(), 0
    with open(os.devnull, "w") as nowhere:
        out = rich_console.Console(file=nowhere)
        for path in episodes.paths(workdir):
            for line, stored in enumerate(episodes.read(path), start=1):
                recording = episode.read_recording(f"{path}:{line}")
                config = episode.make_config(recording.config, {})
                assert episode.replay(recording, config, out), f"{path}:{line}"
                endings.add(stored.ending.value)
                played += 1
    assert played == 2 * 16 + 2 * 6 * 2  # two iterations, two panels
    assert {"max_tokens", "max_turns"} <= endings


def test_an_evaluation_with_another_horizon_and_list_replays_too(workdir, tmp_path):
    ids = tmp_path / "ids.txt"
    ids.write_text("babyai_0\nbabyai_7\ntextcraft_3\n")
    done = commands.run(
        [sys.executable, "-m", "agentrl.launch.evaluate", f"--checkpoint={workdir}",
         f"--out={tmp_path / 'out'}", "--envs=babyai", "--tasks=0", "--max_turns=2",
         "--list_actions=always", f"--item_file={ids}"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for part in ("random policy", "ids of ids.txt", "max_turns 2, list_actions always"):
        assert part in done.stdout, done.stdout
    (path,) = episodes.paths(tmp_path / "out")
    found = list(episodes.read(path))
    assert [e.item_id for e in found] == ["babyai_0"] * 2 + ["babyai_7"] * 2
    shown = [e.turns[0].observation if e.turns else e.final_observation for e in found]
    assert all("Available actions" in observation for observation in shown)
    assert max(len(e.turns) for e in found) <= 2
    with open(os.devnull, "w") as nowhere:
        out = rich_console.Console(file=nowhere)
        for line in range(1, len(found) + 1):
            recording = episode.read_recording(f"{path}:{line}")
            config = episode.make_config(recording.config, {})
            assert episode.replay(recording, config, out)


def test_the_command_that_the_report_shows_replays_in_a_shell(workdir):
    """The page makes it as here, in its script: see `replayCommand`."""
    place = shlex.quote(f"{workdir / episodes.FOLDER / 'both.jsonl'}:3")
    done = subprocess.run(
        f"{sys.executable} -m agentrl.launch.console play --replay={place}",
        shell=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
