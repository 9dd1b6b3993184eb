"""A store in memory that is empty and never waits."""

import pytest
from fsspec.implementations import memory

from agentrl.buckets import lease, objects


@pytest.fixture(autouse=True)
def emptied(monkeypatch, tmp_path):
    monkeypatch.setenv("AGENTRL_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(objects, "_FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(lease, "_SETTLING_S", 0.0)
    monkeypatch.setattr(memory.MemoryFileSystem, "store", {})
    monkeypatch.setattr(memory.MemoryFileSystem, "pseudo_dirs", [""])
