"""The scripts that complete commands, read by the shells themselves."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from agentrl.launch import console

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "agentrl.launch.console", "completion", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def scripts():
    return {shell: run(shell)[1] for shell in ("bash", "zsh", "fish")}


def complete_in_bash(script, *words):
    """What bash offers for the last of the words, `=` being a word of its own."""
    spelled = " ".join(f"'{word}'" for word in ("agentrl", *words))
    code = (
        f"compopt() {{ :; }}\n{script}\nCOMP_WORDS=({spelled})\n"
        f"COMP_CWORD={len(words)}\n_agentrl\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("tr",), ["train"]),
        (("train", "--dry"), ["--dry_run"]),
        (("train", "--allow_"), ["--allow_changes="]),
        (("plan", "--accelerator", "=", "h1"), ["h100", "h100-pcie"]),
        (("play", "--env", "=", "baby"), ["babyai"]),
        (("list", "algo"), ["algorithms"]),
        (("list", "READ"), []),  # no files
        (("train", "READ"), ["README.md"]),
        (("evaluate", "--tier", "=", "e"), ["easy"]),
        (("convert", "--env"), []),  # a flag of other commands
    ],
)
def test_bash(scripts, words, expected):
    found = complete_in_bash(scripts["bash"], *words)
    assert found == expected


def test_every_command_is_offered(scripts):
    assert set(complete_in_bash(scripts["bash"], "")) == set(console.COMMANDS)
    for shell in ("zsh", "fish"):
        assert all(name in scripts[shell] for name in console.COMMANDS)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_shells_can_read_their_scripts(scripts, shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path / "script"
    path.write_text(scripts[shell])
    done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_fish_offers_values(scripts, tmp_path):
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    path = tmp_path / "agentrl.fish"
    path.write_text(scripts["fish"])
    found = subprocess.run(
        ["fish", "-c", f"source {path}; complete -C 'agentrl play --env=bab'"],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert "babyai" in found.stdout, found.stderr


def test_another_shell_is_refused_in_one_line():
    code, _, complaint = run("bsh")
    assert code == 1 and "no script for 'bsh'. Did you mean 'bash'?" in complaint
