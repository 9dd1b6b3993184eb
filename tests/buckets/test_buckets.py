"""Working directories in a store, under the rules of object stores."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import fsspec
import pytest
from fsspec.implementations import memory

from agentrl import errors, storage
from agentrl.buckets import lease, manifest, mirror, objects

URL = "memory://bucket/run"


@pytest.fixture
def written(monkeypatch):
    """Names of the objects that are written, in order."""
    names = []
    for method in ("pipe_file", "put_file"):
        original = getattr(memory.MemoryFileSystem, method)

        def recorded(self, *args, _original=original, _method=method, **options):
            path = args[0] if _method == "pipe_file" else args[1]
            names.append(path.removeprefix("/bucket/run/"))
            return _original(self, *args, **options)

        monkeypatch.setattr(memory.MemoryFileSystem, method, recorded)
    return names


def opened(folder) -> mirror.Mirror:
    folder.mkdir(parents=True, exist_ok=True)
    found = mirror.Mirror(objects.Store(URL), folder)
    found.pull()
    return found


def append(path, text):
    with path.open("a") as file:
        file.write(text)


def before_writing(monkeypatch, change):
    """Calls a function with the name of each object before it is written."""
    for method in ("upload", "write"):
        original = getattr(objects.Store, method)

        def late(self, name, source, _original=original):
            change(name)
            _original(self, name, source)

        monkeypatch.setattr(objects.Store, method, late)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Files that belong to a run, without those that begin with a dot or are saved yet."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.name.startswith(".") and "-tmp" not in name:
            found[name] = path.read_bytes()
    return found


def put(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_another_machine_finds_what_was_published(tmp_path, written):
    here = opened(tmp_path / "a")
    put(here.local, run="{}", metrics="1\n2\n", checkpoints__3__params="abc")
    put(
        here.local,
        **{"checkpoints__4.orbax-checkpoint-tmp-1__params": "a", ".lock": ""},
    )
    here.publish()
    assert contents(opened(tmp_path / "b").local) == contents(here.local)
    assert not any("tmp" in name for name in objects.Store(URL).names())
    assert written[-1] == manifest.NAME

    written.clear()  # what a file gains is written, and nothing else
    append(here.local / "metrics", "3\n")
    shutil.rmtree(here.local / "checkpoints/3")
    here.publish()
    assert [name.partition("-")[0] for name in written] == [
        "metrics/000000000004",
        "manifest.json",
    ]
    assert not any("checkpoints" in name for name in objects.Store(URL).names())
    assert contents(opened(tmp_path / "b").local) == {
        "run": b"{}",
        "metrics": b"1\n2\n3\n",
    }

    put(here.local, metrics="1\n", run='{"changed": 1}')  # cut back, and replaced
    here.publish()
    assert contents(opened(tmp_path / "b").local) == contents(here.local)


in_memory_or_not = pytest.mark.parametrize("large", [-1, mirror._LARGE])


@in_memory_or_not
def test_a_file_that_grows_while_it_is_uploaded_is_no_longer_for_it(
    tmp_path, monkeypatch, large
):
    here = opened(tmp_path / "a")
    put(here.local, metrics="1\n")
    with monkeypatch.context() as patched:
        patched.setattr(mirror, "_LARGE", large)
        texts = iter(["2\n"])
        before_writing(
            patched, lambda _: append(here.local / "metrics", next(texts, ""))
        )
        here.publish()
    assert contents(opened(tmp_path / "b").local) == {"metrics": b"1\n"}
    here.publish()
    assert contents(opened(tmp_path / "c").local) == {"metrics": b"1\n2\n"}


@in_memory_or_not
def test_a_file_that_is_replaced_while_it_is_uploaded_is_whole(
    tmp_path, monkeypatch, large
):
    here = opened(tmp_path / "a")
    put(here.local, run="old")
    monkeypatch.setattr(mirror, "_LARGE", large)
    texts = iter(["new and longer"])

    def change(name):
        for text in texts:
            storage.write(here.local / "run", text)

    before_writing(monkeypatch, change)
    here.publish()
    assert contents(opened(tmp_path / "b").local) == {"run": b"new and longer"}


@in_memory_or_not
@pytest.mark.parametrize(
    ("changes", "kept"), [(1, b"new"), (100, b"before")], ids=["rests", "never rests"]
)
def test_a_file_that_is_rewritten_in_place_while_it_is_uploaded_is_whole(
    tmp_path, monkeypatch, large, changes, kept
):
    here = opened(tmp_path / "a")
    put(here.local, run="{}", state="before")
    here.publish()
    put(here.local, run="{1}", state="now")
    left = iter(range(changes))

    def change(name):
        if name.startswith("state/") and (number := next(left, None)) is not None:
            put(here.local, state=("new", "other")[number % 2])
            os.utime(here.local / "state", ns=(0, number))

    with monkeypatch.context() as patched:
        patched.setattr(mirror, "_LARGE", large)
        before_writing(patched, change)
        here.publish()
    assert contents(opened(tmp_path / "b").local) == {"run": b"{1}", "state": kept}


def test_a_change_that_no_time_tells_of_damages_nothing(tmp_path, monkeypatch):
    here = opened(tmp_path / "a")
    put(here.local, state="1")
    status = (here.local / "state").stat()

    def change(name):
        put(here.local, state="2")
        os.utime(here.local / "state", ns=(status.st_atime_ns, status.st_mtime_ns))

    before_writing(monkeypatch, change)
    here.publish()
    assert contents(opened(tmp_path / "b").local) == {"state": b"1"}


def test_files_in_many_parts_are_joined_in_time(tmp_path):
    here = opened(tmp_path / "a")
    for number in range(mirror._MAX_PARTS + 3):
        append(here.local / "metrics", f"{number}\n")
        here.publish()
    assert contents(opened(tmp_path / "b").local) == contents(here.local)
    assert len(objects.Store(URL).names()) < 8


@pytest.mark.parametrize("failing", ["pipe_file", "put_file", "rm_file"])
def test_whatever_fails_whenever_the_store_holds_one_state(
    tmp_path, monkeypatch, failing
):
    monkeypatch.setattr(mirror, "_LARGE", 9)
    here = opened(tmp_path / "a")
    put(here.local, run="{}", metrics="1\n", checkpoints__1__params="a" * 10)
    here.publish()
    before = contents(here.local)
    append(here.local / "metrics", "2\n")
    put(here.local, checkpoints__2__params="b" * 10, checkpoints__2__state="c")
    shutil.rmtree(here.local / "checkpoints/1")
    after = contents(here.local)
    original = getattr(memory.MemoryFileSystem, failing)
    seen = set()
    for allowed in range(8):
        calls = iter(range(allowed))

        def limited(self, *args, _calls=calls, **options):
            if next(_calls, None) is None:
                raise OSError("quota exceeded")
            return original(self, *args, **options)

        monkeypatch.setattr(memory.MemoryFileSystem, failing, limited)
        again = mirror.Mirror(objects.Store(URL), here.local)
        again.pull()
        try:
            again.publish()
        except OSError as error:
            assert "quota exceeded" in str(error)
            assert URL in str(error)
        monkeypatch.setattr(memory.MemoryFileSystem, failing, original)
        fresh = tmp_path / f"fresh{allowed}"
        found = contents(opened(fresh).local)
        assert found in (before, after)
        seen.add(found == after)
        assert contents(here.local) == after  # nothing is lost here either
    assert True in seen


def test_a_copy_that_is_ahead_goes_on_and_one_that_is_behind_is_made_anew(tmp_path):
    here, there = opened(tmp_path / "a"), opened(tmp_path / "b")
    put(here.local, metrics="1\n")
    here.publish()
    there.pull()
    put(there.local, metrics="1\n2\n")  # killed before it was published
    assert contents(opened(there.local).local) == {"metrics": b"1\n2\n"}
    put(here.local, metrics="1\n5\n", report="new")  # another machine went on
    here.publish()
    assert contents(opened(there.local).local) == contents(here.local)


def test_a_copy_that_is_made_anew_keeps_nothing_that_could_pass_for_a_checkpoint(
    tmp_path,
):
    here, there = opened(tmp_path / "a"), opened(tmp_path / "b")
    put(here.local, metrics="1\n", checkpoints__1__params="a")
    here.publish()
    there.pull()
    put(there.local, checkpoints__7__params="b")  # killed before it was published
    put(there.local, **{".metrics.0.partial": "1"})
    put(here.local, metrics="1\n2\n", checkpoints__2__params="c")
    here.publish()
    there.pull()
    assert sorted(os.listdir(there.local / "checkpoints")) == ["1", "2"]
    assert not list(there.local.rglob("*.partial"))


def test_damage_is_named(tmp_path):
    here = opened(tmp_path / "a")
    put(here.local, metrics="1\n")
    here.publish()
    store = objects.Store(URL)
    (part,) = [name for name in store.names() if name.startswith("metrics")]
    store.write(part, b"2\n")
    with pytest.raises(
        errors.DamagedFileError, match="memory://bucket/run/metrics/0000"
    ):
        opened(tmp_path / "b")
    store.write(manifest.NAME, b"{")
    with pytest.raises(errors.DamagedFileError, match=r"manifest.json is damaged"):
        opened(tmp_path / "b")


def test_a_lost_lease_ends_the_run_and_loses_nothing():
    with (
        pytest.raises(
            OSError, match=r"taken over by other, process 7.*Nothing is lost"
        ),
        mirror.training(URL) as publisher,
    ):
        put(publisher.workdir, metrics="1\n")
        told = {"owner": "x", "host": "other", "process": 7, "until": 2e9}
        objects.Store(URL).write(lease.NAME, json.dumps(told).encode())
    assert (mirror.local_copy(URL) / "metrics").read_text() == "1\n"
    assert objects.Store(URL).read(manifest.NAME) is None
    assert json.loads(objects.Store(URL).read(lease.NAME))["owner"] == "x"


@pytest.mark.parametrize(
    "name", ["a/manifest.json", "a/lease.json", "data.csv", "a/metrics/1-2"]
)
def test_a_new_run_does_not_begin_among_what_is_not_its_own(name):
    objects.Store(URL).write(name, b"{}")
    with (
        pytest.raises(errors.ConfigError, match=r"such as [ad]"),
        mirror.training(URL),
    ):
        pass
    assert objects.Store(URL).names() == [name]


def test_a_run_that_died_before_it_published_is_begun_again():
    store = objects.Store(URL)
    part = f"metrics/{0:012d}-{'a' * 16}"
    store.write(part, b"1")
    with mirror.training(URL) as publisher:
        put(publisher.workdir, metrics="2")
    assert manifest.NAME in store.names()
    assert part not in store.names()


def test_publishing_removes_nothing_of_a_run_below_it():
    inner = f"{URL}/checkpoints"
    with mirror.training(URL) as publisher:
        put(publisher.workdir, metrics="1", checkpoints__3__params="abc")
    with (
        pytest.raises(errors.ConfigError, match=f"files of the run at {URL};"),
        mirror.training(inner),
    ):
        pass
    inner = f"{URL}/inner"
    with mirror.training(inner) as publisher:
        put(publisher.workdir, metrics="2")
    objects.Store(URL).write("notes.txt", b"3")
    before = objects.Store(inner).names()
    with mirror.training(URL) as publisher:
        put(publisher.workdir, metrics="4")
    assert objects.Store(inner).names() == before
    assert objects.Store(URL).read("notes.txt") == b"3"


def test_an_interrupted_run_says_what_the_store_lacks(monkeypatch, capsys):
    def failing(*_):
        raise OSError("quota exceeded")

    with pytest.raises(errors.InterruptedRun), mirror.training(URL) as publisher:
        put(publisher.workdir, metrics="1\n")
        for method in ("read", "write", "names"):
            monkeypatch.setattr(objects.Store, method, failing)
        publisher.publish()
        raise errors.InterruptedRun("saved.")
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{URL} lacks what was saved last: quota exceeded. Nothing is lost" in told


@pytest.mark.parametrize("error", [errors.InterruptedRun, OSError, None])
def test_the_last_publish_is_tried_although_the_one_before_failed(
    monkeypatch, capsys, error
):
    failures = iter(["quota exceeded"])

    def change(name):
        if name == manifest.NAME:
            for failure in failures:
                raise OSError(failure)

    before_writing(monkeypatch, change)
    raised = pytest.raises(error) if error else contextlib.nullcontext()
    with raised, mirror.training(URL) as publisher:
        put(publisher.workdir, metrics="1\n")
        publisher.publish()
        if error:
            raise error("stopped")
    assert objects.Store(URL).read(manifest.NAME) is not None
    assert not capsys.readouterr().err


@in_memory_or_not
def test_checkpoints_that_are_removed_meanwhile_are_left_out(
    tmp_path, monkeypatch, large
):
    here = opened(tmp_path / "a")
    monkeypatch.setattr(mirror, "_LARGE", large)
    put(here.local, run="{}", checkpoints__1__params="a", checkpoints__2__params="b")
    gone = [here.local / "checkpoints/1"]
    scandir = os.scandir

    def listed(path):
        if gone and gone[0] == pathlib.Path(path):
            shutil.rmtree(gone.pop())
        return scandir(path)

    def change(name):
        if name.startswith("checkpoints/2"):
            (here.local / "checkpoints/2/params").unlink()

    monkeypatch.setattr(os, "scandir", listed)
    before_writing(monkeypatch, change)
    here.publish()
    assert contents(opened(tmp_path / "b").local) == {"run": b"{}"}
    shutil.rmtree(here.local)
    with pytest.raises(FileNotFoundError):  # that is no empty run
        here.publish()


def test_no_checkpoint_is_published_before_the_metrics_that_lead_to_it(
    tmp_path, monkeypatch
):
    here = opened(tmp_path / "a")
    put(here.local, metrics="1\n", checkpoints__1__params="a")

    def change(name):
        if name.startswith("metrics"):  # training goes on meanwhile
            append(here.local / "metrics", "2\n")
            put(here.local, checkpoints__2__params="b")

    with monkeypatch.context() as patched:
        before_writing(patched, change)
        here.publish()
    found = contents(opened(tmp_path / "b").local)
    assert found["checkpoints/1/params"] == b"a"
    assert "checkpoints/2/params" not in found
    assert found["metrics"].startswith(b"1\n")
    here.publish()
    assert contents(opened(tmp_path / "c").local) == contents(here.local)


@pytest.mark.parametrize("replaced", [1, 100], ids=["once", "again and again"])
def test_published_checkpoints_are_whole_although_newer_ones_replace_them(
    tmp_path, monkeypatch, replaced
):
    here = opened(tmp_path / "a")
    folder = here.local / "checkpoints"
    put(here.local, run="{}", checkpoints__100__params="a", checkpoints__100__state="a")
    here.publish()
    shutil.rmtree(folder / "100")
    put(here.local, checkpoints__101__params="a1", checkpoints__101__state="a1")
    steps = iter(range(102, 102 + replaced))

    def change(name):  # the first file is on its way, the second one is removed
        step = int(name.split("/")[1]) if "params" in name else None
        if step is not None and (new := next(steps, None)) is not None:
            for item in ("params", "state"):
                put(here.local, **{f"checkpoints__{new}__{item}": f"a{new}"})
            shutil.rmtree(folder / str(step))

    before_writing(monkeypatch, change)
    here.publish()
    (newest,) = folder.iterdir()
    kept = newest.name if replaced == 1 else "100"
    assert contents(opened(tmp_path / "b").local).keys() == {
        "run",
        f"checkpoints/{kept}/params",
        f"checkpoints/{kept}/state",
    }


def test_opening_starts_no_device():
    code = (
        "from agentrl.buckets import mirror\n"
        f"with mirror.opened({URL!r}):\n"
        "    from jax._src import xla_bridge\n"
        "    assert not xla_bridge.backends_are_initialized()\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_addresses_that_cannot_work_are_refused(monkeypatch):
    with pytest.raises(errors.ConfigError, match="gs://BUCKET/PATH"):
        objects.Store("gz://bucket/run")

    def missing(url):
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(errors.ConfigError, match=r"pip install 'agentrl-jax\[gcs\]'"):
        objects.Store("gs://bucket/run")
