"""File systems that cannot hold a run, played by calls that fail as theirs do."""

import errno
import os
import pathlib

import pytest

from agentrl import errors
from agentrl.buckets import mirror


def failing(number):
    def fail(*_args, **_options):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("folder", ["", "runs/demo"])
def test_a_disk_holds_a_run_and_keeps_nothing_of_the_trial(tmp_path, folder):
    with mirror.opened(f"{tmp_path}/{folder}") as (found, _):
        assert found == tmp_path / folder
    assert not list(tmp_path.iterdir())


def test_a_mount_without_renames_of_nested_folders_is_refused(tmp_path, monkeypatch):
    rename = pathlib.Path.rename

    def flat(self, target):
        if any(path.is_dir() for path in self.iterdir()):
            failing(errno.ENOTSUP)()
        return rename(self, target)

    monkeypatch.setattr(pathlib.Path, "rename", flat)
    told = (
        r"demo: the file system there cannot rename a folder that holds a folder "
        r"\(Operation not supported\), as .*NFS"
    )
    with pytest.raises(errors.ConfigError, match=told):
        mirror.opened(f"{tmp_path}/demo").__enter__()
    assert not list(tmp_path.iterdir())


def test_all_that_a_mount_lacks_is_told_at_once(tmp_path, monkeypatch):
    plain = pathlib.Path.open

    def never_appends(self, mode="r", *args, **options):
        if "a" in mode:
            failing(errno.EPERM)()
        return plain(self, mode, *args, **options)

    monkeypatch.setattr(pathlib.Path, "open", never_appends)
    monkeypatch.setattr(pathlib.Path, "rename", failing(errno.ENOSYS))
    told = r"append to a file \(Op.*\) or rename a folder.*\(Function not implemented"
    with pytest.raises(errors.ConfigError, match=told):
        mirror.opened(str(tmp_path)).__enter__()


def test_a_mount_that_does_nothing_and_says_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "truncate", lambda *_: None)
    with pytest.raises(errors.ConfigError, match="cannot cut a file"):
        mirror.opened(str(tmp_path)).__enter__()


def test_the_local_copy_of_a_store_is_tried_too(monkeypatch):
    monkeypatch.setattr(pathlib.Path, "rename", failing(errno.ENOSYS))
    with pytest.raises(errors.ConfigError, match=r"run-.*cannot rename a folder"):
        mirror.opened("memory://bucket/run").__enter__()


def test_a_full_or_forbidden_disk_is_no_unfit_one(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "write_text", failing(errno.ENOSPC))
        with pytest.raises(OSError, match=r"No space left.*make room"):
            mirror.opened(str(tmp_path)).__enter__()
    monkeypatch.setattr(os, "mkdir", failing(errno.EACCES))
    with mirror.opened(str(tmp_path)):  # whoever writes first tells it
        pass
