"""Where compiled programs are kept, and what is printed of compiling."""

import os
import stat
import types

import pytest

from agentrl.hardware import compilation


@pytest.fixture
def updates(monkeypatch):
    """What is changed of JAX's configuration, which has no cache before."""
    changed = {}
    config = types.SimpleNamespace(
        jax_compilation_cache_dir=None, update=changed.__setitem__
    )
    monkeypatch.setattr(compilation.jax, "config", config)
    monkeypatch.delenv(compilation.VARIABLE, raising=False)
    return changed


def test_each_kind_of_host_has_a_folder_of_its_own(updates, monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path))
    folder = compilation.enable_cache()
    assert folder == tmp_path / "xla" / compilation.describe_host()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700  # what lies there is run
    assert updates["jax_compilation_cache_dir"] == str(folder)
    assert updates["jax_compilation_cache_max_size"] == compilation.MAX_BYTES
    monkeypatch.setattr(compilation, "describe_host", lambda: "another")
    assert compilation.enable_cache() == folder.with_name("another")


def test_kinds_that_are_not_seen_any_more_are_dropped(updates, monkeypatch, tmp_path):
    monkeypatch.setenv(compilation.VARIABLE, str(tmp_path))
    for age in range(6):
        old = tmp_path / f"kind{age}"
        old.mkdir()
        os.utime(old, (1e9 - age, 1e9 - age))
    folder = compilation.enable_cache()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {folder.name, "kind0", "kind1", "kind2"}


def test_it_can_be_turned_off_and_is_not_needed(updates, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(compilation.VARIABLE, "off")
    assert compilation.enable_cache() is None and not updates
    (tmp_path / "file").touch()
    monkeypatch.setenv(compilation.VARIABLE, str(tmp_path / "file"))
    assert compilation.enable_cache() is None and not updates
    assert "compiled programs are not kept" in capsys.readouterr().err
    compilation.jax.config.jax_compilation_cache_dir = "/mine"
    assert str(compilation.enable_cache()) == "/mine" and not updates


def test_progress_is_printed_now_and_then(monkeypatch, capsys):
    seconds = iter([0.0, 1.0, 6.0, 7.0, 9.0])
    monkeypatch.setattr(compilation.time, "perf_counter", lambda: next(seconds))
    with compilation.progress("turns", 4) as report:
        for _ in range(4):
            report()
    assert capsys.readouterr().out.splitlines() == [
        "compiled 2 of 4 turns, 6 s",
        "compiled 4 of 4 turns, 9 s",
    ]
