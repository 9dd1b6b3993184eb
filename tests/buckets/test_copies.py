"""Copies of runs in a store for those who read them while they go on."""

import pathlib
import shutil
import threading
from concurrent import futures

import pytest

from agentrl import errors
from agentrl.buckets import copies, mirror, objects

URL = "memory://bucket/run"


@pytest.fixture(autouse=True)
def released(monkeypatch):
    """Checkpoints are held until the test ends, in place of the process."""
    held = []
    monkeypatch.setattr(copies, "_held", held)
    yield held
    for file in held:
        file.close()


class LiveRun:
    """A run that keeps its newest checkpoint only."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder / "live"
        self.folder.mkdir()
        (self.folder / "run.json").write_text("{}")
        self._mirror = mirror.Mirror(objects.Store(URL), self.folder)

    def save(self, step: int) -> None:
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        for item in ("params", "state"):
            path = self.folder / "checkpoints" / str(step) / item
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{item} {step}")
        self._mirror.publish()


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def put(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def while_downloading(monkeypatch, change):
    """Calls a function with the name of each object after it was fetched."""
    original = objects.Store.download

    def changed(self, name, path):
        original(self, name, path)
        change(name)

    monkeypatch.setattr(objects.Store, "download", changed)


def test_readers_fetch_the_checkpoint_that_they_need():
    with mirror.training(URL) as publisher:
        put(publisher.workdir, **{"run.json": "{}"}, checkpoints__9__p="9")
        put(publisher.workdir, checkpoints__10__p="10")
    found = mirror.readable(URL)
    assert contents(found).keys() == {"run.json", "checkpoints/10/p"}
    chosen = mirror.readable(f"{URL}/checkpoints/9")
    assert contents(chosen) == {"p": b"9"}
    assert (chosen.parents[1] / "run.json").exists()
    assert mirror.readable("runs/demo") == pathlib.Path("runs/demo")
    with pytest.raises(errors.ConfigError, match="holds no run"):
        mirror.readable("memory://bucket/other")


@pytest.mark.parametrize(
    "url", [f"{URL}/checkpoints{more}" for more in ("", "/7", "/demo", "-2/demo")]
)
def test_addresses_of_runs_may_name_checkpoints(url):
    with mirror.training(url) as publisher:
        put(publisher.workdir, **{"run.json": "{}"}, checkpoints__9__p="9")
    assert (mirror.readable(url) / "run.json").exists()
    assert contents(mirror.readable(f"{url}/checkpoints/9/")) == {"p": b"9"}
    assert (mirror.readable(f"{url}/checkpoints") / "run.json").exists()


def test_a_run_is_read_although_its_checkpoint_is_replaced_meanwhile(
    tmp_path, monkeypatch
):
    live = LiveRun(tmp_path)
    live.save(1)
    steps = iter([2, 3])

    def change(name):
        if "params" in name and (step := next(steps, None)):
            live.save(step)

    while_downloading(monkeypatch, change)
    assert contents(mirror.readable(URL)) == contents(live.folder)
    assert (live.folder / "checkpoints/3").exists()


def test_a_step_that_is_replaced_while_it_is_read_is_told(tmp_path, monkeypatch):
    live = LiveRun(tmp_path)
    live.save(1)
    while_downloading(monkeypatch, lambda name: "params" in name and live.save(2))
    with pytest.raises(errors.CheckpointError, match=r"no checkpoint 1,.*holds \[2\]"):
        mirror.readable(f"{URL}/checkpoints/1")


def test_reading_a_run_that_never_rests_ends(tmp_path, monkeypatch):
    live = LiveRun(tmp_path)
    live.save(0)
    steps = iter(range(1, 100))
    while_downloading(
        monkeypatch, lambda name: "params" in name and live.save(next(steps))
    )
    with pytest.raises(OSError, match=r"changed 5 times before .*\(reading memory:"):
        mirror.readable(URL)


def test_a_part_that_is_missing_is_named_and_looked_for_once(tmp_path, monkeypatch):
    LiveRun(tmp_path).save(1)
    store = objects.Store(URL)
    store.remove([name for name in store.names() if "params" in name])
    tried = []
    monkeypatch.setattr(store._system, "get_file", _recorded(store._system, tried))
    with pytest.raises(OSError, match=f"reading {URL}/checkpoints/1/params/0000"):
        mirror.readable(URL)
    assert len([name for name in tried if "params" in name]) == 1


def _recorded(system, names):
    original = system.get_file

    def get_file(name, path):
        names.append(name)
        return original(name, path)

    return get_file


def test_a_checkpoint_stays_while_somebody_may_read_it(tmp_path, released):
    live = LiveRun(tmp_path)
    live.save(1)
    chosen = mirror.readable(f"{URL}/checkpoints/1")
    before = contents(chosen)
    live.save(2)
    found = mirror.readable(URL)
    assert contents(chosen) == before
    assert (found / "checkpoints/2").exists()
    live.save(3)
    while released:  # as by the end of the process
        released.pop().close()
    mirror.readable(URL)
    assert [path.name for path in (found / "checkpoints").iterdir()] == ["3"]


def test_no_checkpoint_of_a_run_before_it_is_taken_for_its_newest(tmp_path):
    live = LiveRun(tmp_path)
    live.save(7)
    mirror.readable(URL)
    live.save(3)  # the run was begun anew
    found = mirror.readable(URL)
    assert [path.name for path in (found / "checkpoints").iterdir()] == ["3"]


def test_commands_that_read_one_run_take_turns(tmp_path, monkeypatch):
    LiveRun(tmp_path).save(1)
    working, most = [], []

    def change(name):
        working.append(name)
        most.append(len(working))
        threading.Event().wait(0.05)
        working.remove(name)

    while_downloading(monkeypatch, change)
    with futures.ThreadPoolExecutor(2) as threads:
        found = list(threads.map(mirror.readable, [URL, URL]))
    assert max(most) == 1
    assert contents(found[0]) == contents(tmp_path / "live")


def test_copies_of_one_file_do_not_meet_while_they_are_fetched(tmp_path, monkeypatch):
    store, part = objects.Store(URL), (0, 3, copies.manifest.digest(b"abc"))
    store.write(copies.manifest.object_name("a", part), b"abc")
    both = threading.Barrier(2, timeout=20)
    while_downloading(monkeypatch, lambda name: both.wait())

    def fetch(_):
        copies.download(store, "a", [part], tmp_path / "a")

    with futures.ThreadPoolExecutor(2) as threads:
        list(threads.map(fetch, range(2)))
    assert contents(tmp_path) == {"a": b"abc"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
