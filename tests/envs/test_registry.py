"""Environments from outside: what AGENTRL_ENVS may say, and what modules may lack."""

import os
import pathlib
import subprocess
import sys

import pytest

from agentrl.envs import base, registry, tasks

ROOT = pathlib.Path(__file__).parents[2]
MODULE = """
from agentrl.envs import base, textcraft
SPEC = base.EnvSpec("thermo", textcraft.TextCraft, ("train", "test"), *[None] * 3, {})
"""


@pytest.fixture
def outside(monkeypatch, tmp_path):
    """Sets the variable, writes the module `thermo_env`, and reads both afresh."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_MODULES", dict(registry._OWN))

    def register(entries, source=MODULE):
        (tmp_path / "thermo_env.py").write_text(source)
        monkeypatch.setenv(registry.VARIABLE, entries)
        registry._MODULES.update(registry._read_outside())
        registry.get_spec.cache_clear()

    yield register
    registry.get_spec.cache_clear()
    sys.modules.pop("thermo_env", None)


@pytest.mark.parametrize(
    "entries", ["thermo=thermo_env", " thermo = thermo_env ,", "thermo=thermo_env," * 2]
)
def test_entries_may_have_spaces_and_be_repeated(outside, entries):
    outside(entries)
    assert registry.get_spec("thermo").name == "thermo"


@pytest.mark.parametrize(
    "entries, message",
    [
        ("thermo", "entry 'thermo': write it as name=module"),
        ("sokoban=agentrl.envs.sokoban,thermo=", "entry 'thermo=': write it as name"),
        ("=thermo_env", "entry '=thermo_env': write it as name=module"),
        (
            "thermo=a,thermo=b",
            "entry 'thermo=b': 'thermo' is 'a' already; name it once",
        ),
    ],
)
def test_entries_that_cannot_be_read_are_told(outside, entries, message):
    outside(entries)
    for name in ("thermo", "textcraft"):
        with pytest.raises(base.EnvConfigError, match=f"AGENTRL_ENVS: {message}"):
            registry.get_spec(name)


def test_a_selection_tells_them_too(outside):
    outside("thermo")
    with pytest.raises(base.EnvConfigError, match="entry 'thermo'"):
        tasks.check_selection({"thermo": base.EnvConfig()}, split="test")


@pytest.mark.parametrize(
    "source, message",
    [
        ("def f(:", r"cannot be imported: SyntaxError: .*thermo_env.py, line 1"),
        ("\nSPEC = 1 / 0", r"ZeroDivisionError: division.*thermo_env.py, line 2\)"),
        ("import no_such", "cannot be imported: ModuleNotFoundError: .*'no_such'"),
        ("from os import no_such", "ImportError: cannot import name 'no_such'"),
        ("", "has no SPEC; it needs SPEC = base.EnvSpec"),
        ("SPEC = 3", "has a SPEC of type int; it needs"),
        (MODULE.replace('"thermo"', '"thermos"'), "register it as thermos=thermo_env"),
    ],
)
def test_a_module_that_cannot_be_used_is_told_in_one_line(outside, source, message):
    outside("thermo=thermo_env", source)
    with pytest.raises(base.EnvConfigError, match=message) as refused:
        registry.get_spec("thermo")
    assert "'thermo_env'" in str(refused.value) and "\n" not in str(refused.value)


def test_a_module_may_say_what_it_lacks(outside):
    source = "from agentrl.envs import base\nraise base.MissingDataError('a file')"
    outside("thermo=thermo_env", source)
    with pytest.raises(base.MissingDataError, match="a file"):
        registry.get_spec("thermo")


@pytest.mark.parametrize(
    "entries, message",
    [
        ("thermo", "AGENTRL_ENVS: entry 'thermo'"),
        ("thermo=no_such", "there is no module 'no_such'"),
        ("thermo=no_such;a=b", "there is no module 'no_such;a=b'"),
    ],
)
def test_a_command_tells_it_in_one_line(entries, message):
    done = subprocess.run(
        [sys.executable, "-m", "agentrl.launch.play", "--env=thermo"],
        capture_output=True,
        text=True,
        env=os.environ | {"AGENTRL_ENVS": entries, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr
