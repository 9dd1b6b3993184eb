import dataclasses
import html.parser
import os
import pathlib
import re
import sys

import commands
import fake_run
import numpy as np
import pytest

from agentrl import errors, types
from agentrl.envs import base
from agentrl.experiment import files
from agentrl.reporting import metrics, plots, report, tables
from agentrl.statistics import results
from agentrl.transcripts import episodes

ROOT = pathlib.Path(__file__).parents[2]


class Page(html.parser.HTMLParser):
    """Checks that tags close, and keeps what a test asks about."""

    VOID = ("meta", "br", "use", "path")

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.tags, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data.split()

    @property
    def text(self):
        return " ".join(self.words)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    fake_run.write_run(workdir)
    return workdir


@pytest.fixture(scope="module")
def page(run):
    return Page(report.write(run, files.read_run(run)).read_text())


def test_page_needs_nothing_but_itself(page):
    assert all(link.startswith("#") for link in page.links)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.tags.count("svg") == 10


def test_page_shows_results_gains_and_forgetting(page):
    assert "75.0 40.0 to 93.1 · pass@4 100.0 [66.1, 100.0]" in page.text
    assert "Score, as the environment itself defines it" in page.text
    assert "Gains over the warm start" in page.text
    assert "One seed: holds for this run only." in page.text
    # Tasks do not differ in the made-up run: intervals of one sample's width.
    assert "both +25.0 +19.3 to +30.7 +75.0 +69.3 to +80.7" in page.text
    minus = "\N{MINUS SIGN}"
    assert (
        f"textcraft +50.0 +44.3 to +55.7 trained +0.0 {minus}5.7 to +5.7" in page.text
    )
    assert "Held-In +50.0 +46.3 to +53.7 5.2 Held-Out \N{EN DASH}" in page.text
    assert f"backward transfer {minus}25.0 {minus}30.7 to {minus}19.3" in page.text
    assert "since its own stage +25.0 +19.3 to +30.7 since textcraft" in page.text
    assert (
        f"since its best stage +25.0 no interval {minus}75.0 no interval" in page.text
    )
    assert (
        "textcraft: 10 tasks \N{MULTIPLICATION SIGN} 4 samples, split test, tier all"
        in page.text
    )


def test_page_shows_time_failures_and_how_to_replay(page, run):
    assert "2.00 s per iteration" in page.text
    assert "rollout 62 % (10.0)" in page.text
    assert "rest 12 % (2.0)" in page.text
    assert "both · babyai" in page.text
    place = re.search(r"--replay=(\S+both.jsonl):(\d+)", page.text)
    lines = pathlib.Path(place[1]).read_text().splitlines()
    assert int(place[2]) <= len(lines)


def test_held_out_episodes_go_before_training_ones(tmp_path):
    fake_run.write_run(tmp_path)
    trajectory = fake_run.make_trajectory(success=False, actions=("look",), valid=False)
    stored = episodes.from_trajectory(
        trajectory, stage="both", iteration=8, env_config=base.EnvConfig()
    )
    stored = dataclasses.replace(stored, failures=("repeat_loop", "timeout"))
    folder = tmp_path / episodes.FOLDER
    episodes.append(folder / "evaluation.both.textcraft.jsonl", [stored] * 3)

    page = Page(report.write(tmp_path, files.read_run(tmp_path)).read_text())

    assert "both · textcraft 3 of 3 episodes failed repeat_loop 100 % (3)" in page.text
    assert "both · babyai" not in page.text


def test_what_environments_lost_is_in_table_and_page_and_counts_nowhere(tmp_path):
    fake_run.write_run(tmp_path)
    result = fake_run.make_result("both", 24, "textcraft", 1.0)
    samples = {
        name: (
            *((None,) * 4,) * 2,
            (None, *getattr(result, name)[2][1:]),
            *getattr(result, name)[3:],
        )
        for name in ("success", "score", "turns", "tokens")
    }
    dataclasses.replace(result, **samples).save(tmp_path)
    lost = fake_run.make_trajectory(success=False, ending=types.Ending.ENV_TIMEOUT)
    stored = episodes.from_trajectory(
        lost, stage="both", iteration=8, env_config=base.EnvConfig()
    )
    folder = tmp_path / episodes.FOLDER
    episodes.append(folder / "evaluation.both.textcraft.jsonl", [stored])

    page = Page(report.write(tmp_path, files.read_run(tmp_path)).read_text())
    table = tables.format_table(results.load_all(tmp_path, ["textcraft", "babyai"]))

    told = (
        "textcraft after stage both: the environment lost 9 of 40 samples, which do not "
        "count; 2 of 10 tasks have no other"
    )
    assert told in page.text and told in table
    lost_cell = r"100\.0 58\.9 to 100\.0 · pass@4 100\.0 \[\S+ 100\.0\] · 9 lost"
    assert re.search(lost_cell, page.text)
    assert re.search(r"100\.0  \[ 58\.9, 100\.0\]  9 lost", table)
    assert "both +75.0 +67.6 to +82.4 +75.0" in page.text  # over eight tasks
    assert "both · textcraft" not in page.text  # no episode to judge


def test_hostile_text_stays_text(tmp_path):
    settings = fake_run.make_settings()
    fake_run.write_run(tmp_path, settings)
    attack = "</pre><script>alert(1)</script>\ud800"
    trajectory = fake_run.make_trajectory(
        actions=(attack,), observations=(attack,), final=attack
    )
    path = tmp_path / episodes.FOLDER / "evaluation.both.textcraft.jsonl"
    episodes.append(
        path,
        [
            episodes.from_trajectory(
                trajectory, stage="both", iteration=8, env_config=base.EnvConfig()
            )
        ],
    )

    page = Page(report.write(tmp_path, files.read_run(tmp_path)).read_text())

    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script>") == 3


def test_a_run_in_its_first_stage_has_a_page(tmp_path):
    fake_run.write_run(tmp_path)
    for path in (tmp_path / results.FOLDER).iterdir():
        path.unlink()
    lines = (tmp_path / metrics.FILE).read_text().splitlines(keepends=True)
    (tmp_path / metrics.FILE).write_text("".join(lines[:3]))
    for path in (tmp_path / episodes.FOLDER).iterdir():
        path.unlink()

    page = Page(report.write(tmp_path, files.read_run(tmp_path)).read_text())

    assert "3 of 24" in page.text
    assert "Success on held-out tasks" not in page.text
    assert "Transcripts" not in page.text


def test_directory_without_iterations_is_refused(tmp_path):
    with pytest.raises(errors.ConfigError, match=r"holds no run.json"):
        report.write(tmp_path, files.read_run(tmp_path))
    fake_run.write_run(tmp_path)
    (tmp_path / metrics.FILE).unlink()
    with pytest.raises(errors.ConfigError, match=r"holds no metrics.jsonl"):
        report.write(tmp_path, files.read_run(tmp_path))


def test_damaged_metrics_are_named(tmp_path):
    fake_run.write_run(tmp_path)
    with (tmp_path / metrics.FILE).open("a") as file:
        file.write("oops\n")
    with pytest.raises(errors.DamagedFileError, match=r"metrics.jsonl:25 is not JSON"):
        report.write(tmp_path, files.read_run(tmp_path))


def test_table_for_a_terminal(run):
    table = tables.format_table(results.load_all(run, ["textcraft", "babyai"]))

    rows = [line.split() for line in table.splitlines()]
    assert ["after", "stage", "textcraft", "babyai"] in rows
    assert [
        "both",
        "50.0",
        "[",
        "20.9,",
        "79.1]",
        "100.0",
        "[",
        "66.1,",
        "100.0]",
    ] in rows
    assert "The score equals success in every sample." in table
    assert "One seed: holds for this run only." in table
    assert tables.format_table([]) == "No evaluation has been stored."


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_curve_without_positive_values_has_a_linear_axis(value):
    curve = np.full(4, value)
    assert plots.draw_lines([curve], logarithmic=True) == plots.draw_lines([curve])


def test_chart_takes_colours_and_font_from_the_page():
    svg = plots.draw_lines([np.array([1.0, np.nan, 3.0])], borders=[(0, "a"), (2, "b")])

    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "var(--line)" in svg
    assert "DejaVu" not in svg
    assert svg == plots.draw_lines(
        [np.array([1.0, np.nan, 3.0])], borders=[(0, "a"), (2, "b")]
    )


def test_running_mean_keeps_gaps_and_stage_borders():
    values = np.array([1.0, 2.0, np.nan, 10.0, 20.0])

    np.testing.assert_array_equal(
        plots.running_mean(values, [0, 3]), [1.5, 1.5, np.nan, 15.0, 15.0]
    )


def run_command(*arguments):
    command = [sys.executable, "-m", "agentrl.launch.report", *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return commands.run(command, cwd=ROOT, env=environment)


def test_command_writes_the_page_and_prints_the_table(run):
    done = run_command(f"--workdir={run}")

    assert done.returncode == 0, done.stderr
    assert "after stage" in done.stdout
    assert f"Report: {run}/report.html" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--help"], "python -m agentrl.launch.report --workdir=runs/demo"),
        (["--workdri=x"], "Did you mean: workdir"),
        ([], "--workdir must have a value"),
        (["--workdir=/nowhere"], "launch.report: /nowhere holds no run.json"),
    ],
)
def test_command_refuses_and_teaches(arguments, message):
    done = run_command(*arguments)

    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
