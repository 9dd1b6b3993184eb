"""Stores in local folders, which keep the rules of object stores."""

import os
import pathlib
import shutil

import pytest

from agentrl.buckets import mirror, objects


@pytest.mark.parametrize("scheme", ["file", "local"])
@pytest.mark.parametrize("large", [-1, mirror._LARGE])
def test_a_run_may_lie_in_a_local_folder(tmp_path, monkeypatch, scheme, large):
    monkeypatch.setattr(mirror, "_LARGE", large)
    url = f"{scheme}://{tmp_path}/bucket/run"
    with mirror.training(url) as publisher:
        (publisher.workdir / "run.json").write_text("{}")
        (publisher.workdir / "checkpoints/9").mkdir(parents=True)
        (publisher.workdir / "checkpoints/9/params").write_text("abc")
    found = mirror.readable(url)
    assert (found / "run.json").read_text() == "{}"
    assert (found / "checkpoints/9/params").read_text() == "abc"


def test_a_write_that_fails_half_way_leaves_what_was_there(tmp_path, monkeypatch):
    store = objects.Store(f"file://{tmp_path}/bucket/run")
    store.write("a/b", b"before")

    def full(*args, **options):
        if len(args) > 1:  # copyfile
            pathlib.Path(args[1]).write_bytes(b"hal")
        raise OSError("no room")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    (tmp_path / "now").write_text("now")
    with pytest.raises(OSError, match="no room"):
        store.write("a/b", b"now")
    with pytest.raises(OSError, match="no room"):
        store.upload("a/b", tmp_path / "now")
    assert store.read("a/b") == b"before"


def test_what_a_killed_process_left_of_a_file_is_no_object(tmp_path):
    store = objects.Store(f"file://{tmp_path}/run")
    store.write("a", b"1")
    (tmp_path / "run/.b.0123.partial").write_text("2")
    assert store.names() == ["a"]
