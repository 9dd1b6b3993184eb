"""Small files that are written whole, by one process or by several at once."""

import concurrent.futures

import pytest

from agentrl import storage


def test_writers_at_the_same_time_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "folder" / "file.json"
    contents = [{"writer": n, "numbers": [n] * 1000} for n in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as writers:
        for _ in range(10):
            list(writers.map(lambda c: storage.write_json(path, c), contents))

    assert storage.read_json(path, advice="") in contents
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    storage.write(path, "before")
    monkeypatch.setattr(
        "os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="file"):
        storage.write(path, "after")

    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
