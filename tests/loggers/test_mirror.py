"""A tracker gets each point of a run once: over sessions, kills and outages."""

import dataclasses

import fake_run
import pytest

from agentrl import errors, types
from agentrl.loggers import mirror, outlets, trackers
from agentrl.reporting import metrics

SETTINGS = fake_run.make_settings(num_iterations=3)
STORE = {}  # run id -> points that a tracker holds


class FakeTracker:
    reachable = True
    begins = True

    def __init__(self, workdir, name, run_id, config):
        if not self.begins:
            raise PermissionError("no key")
        self.points = STORE.setdefault(run_id, [])

    def log(self, point):
        if not FakeTracker.reachable:
            raise ConnectionError("gone")
        self.points.append((point.step, point.evaluation, dict(point.numbers)))

    def close(self, *, failed):
        pass


@pytest.fixture(autouse=True)
def tracker(monkeypatch):
    STORE.clear()
    monkeypatch.setattr(FakeTracker, "reachable", True)
    monkeypatch.setattr(FakeTracker, "begins", True)
    # A package that is installed lends its name.
    monkeypatch.setattr(trackers, "KINDS", {"json": FakeTracker})


def settings_with(*log_to):
    return dataclasses.replace(SETTINGS, log_to=log_to)


def steps():
    (points,) = STORE.values()
    return [(step, evaluation) for step, evaluation, _ in points]


def test_a_killed_run_goes_on_without_repeats(tmp_path):
    settings = settings_with("json")
    fake_run.write_iterations(tmp_path, settings, last=5)
    fake_run.write_iterations(tmp_path, settings, first=3)  # repeats 4 and 5
    assert steps() == [(n, "") for n in range(1, 10)]


def test_a_tracker_that_is_named_later_gets_the_whole_run(tmp_path):
    fake_run.write_iterations(tmp_path, settings_with(), last=3)
    fake_run.make_result("warm", 3, "babyai", 0.5).save(tmp_path)
    fake_run.write_iterations(tmp_path, settings_with("json"), first=3)
    expected = [(n, "") for n in range(1, 10)]
    expected.insert(3, (3, "warm/babyai/3"))
    assert steps() == expected


def test_numbers_are_those_of_the_file(tmp_path):
    fake_run.write_iterations(tmp_path, settings_with("json"))
    (points,) = STORE.values()
    stored = list(metrics.jsonl.read(tmp_path / metrics.FILE))
    assert [numbers for _, _, numbers in points] == [
        {name: x for name, x in line.items() if "/" in name} for line in stored
    ]


def test_an_outage_is_told_once_and_made_good(tmp_path, capsys):
    settings = settings_with("json")
    FakeTracker.reachable = False
    fake_run.write_iterations(tmp_path, settings, last=4)
    assert STORE and not next(iter(STORE.values()))
    said = capsys.readouterr().out
    assert "json does not take metrics (ConnectionError: gone)" in said
    assert said.count("Training goes on") == 2  # when it begins, and at the end
    FakeTracker.reachable = True
    fake_run.write_iterations(tmp_path, settings, first=4)
    assert steps() == [(n, "") for n in range(1, 10)]


def test_evaluations_are_sent_once(tmp_path):
    settings = settings_with("json")
    result = fake_run.make_result("warm", 3, "babyai", 0.5)
    for _ in range(2):
        with metrics.Writer(tmp_path, settings) as writer:
            writer.resume(types.Progress(stage_name="warm"), step=3)
            writer.write_evaluations([result])
    assert steps() == [(3, "warm/babyai/3")]


def test_a_tracker_that_refuses_ends_the_session_with_one_line(tmp_path):
    FakeTracker.begins = False
    with pytest.raises(
        errors.ConfigError, match=r"json cannot begin.*no key.*--log_to"
    ):
        fake_run.write_iterations(tmp_path, settings_with("json"), last=1)


def test_a_damaged_mark_is_told(tmp_path):
    (tmp_path / mirror.FILE).write_text("{")
    with pytest.raises(
        errors.DamagedFileError, match="trackers get the whole run again"
    ):
        fake_run.write_iterations(tmp_path, settings_with("json"), last=1)


@pytest.mark.parametrize(
    ("log_to", "message"),
    [
        (("tensorbord",), "Did you mean 'tensorboard'?"),
        (("tensorboard", "tensorboard"), "names one twice"),
        (("absent_tracker",), "run `python -m pip install absent_tracker`"),
    ],
)
def test_what_cannot_be_logged_to_is_refused(monkeypatch, log_to, message):
    known = {"json": FakeTracker, "absent_tracker": FakeTracker}
    monkeypatch.setattr(trackers, "KINDS", known)
    with pytest.raises(errors.ConfigError) as refused:
        outlets.check(log_to)
    assert message in str(refused.value)
