"""One page about a run: results, transfer, curves, time, failures and transcripts.

`report.html` needs nothing but itself: charts are inline SVG, there are no scripts and
no external files.
"""

import collections
import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import numpy as np

from agentrl import config, errors, storage
from agentrl.experiment import files
from agentrl.reporting import coverage, metrics, plots, survey, tables
from agentrl.statistics import results, transfer
from agentrl.transcripts import failures, jsonl

FILE = "report.html"
_TEMPLATE = pathlib.Path(__file__).with_name("report_template.html")

Records = Sequence[Mapping[str, Any]]  # lines of metrics.jsonl

# Title, metric of the run or of each environment, unit, kind of axis.
_CHARTS = (
    ("Success", "env/*/success", "share of the iteration's episodes", "percent"),
    ("Return", "env/*/return", "mean undiscounted sum of rewards", "linear"),
    ("Tokens written", "env/*/action_tokens", "mean per episode", "linear"),
    ("Turns", "env/*/turns", "mean per episode", "linear"),
    ("Entropy", "policy/entropy", "nats per token", "linear"),
    (
        "Sampler against learner",
        "policy/first_logprob_mismatch",
        "mean |difference of log-probabilities| at the first update, nats",
        "logarithmic",
    ),
    ("Loss", "policy/loss", "as the optimizer sees it", "linear"),
    ("Gradient norm", "optimizer/grad_norm", "before clipping", "logarithmic"),
    (
        "Groups without signal",
        "rollout/zero_variance_groups",
        "share with equal returns",
        "percent",
    ),
    (
        "Decoding",
        "perf/decode_tokens_per_second",
        "tokens per second of rollout",
        "linear",
    ),
)


def write(workdir: pathlib.Path, settings: config.RunConfig) -> pathlib.Path:
    """Writes `report.html` into the working directory of a run; returns its path.

    Raises:
      ConfigError: if the run has no finished iteration.
    """
    records = read_metrics(workdir)
    found = results.load_all(workdir, settings.environments)
    by_chance = results.load_random(workdir)
    matrix = transfer.to_matrix({settings.seed: found})
    surveyed = survey.survey_episodes(workdir, settings)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text()).render(
        run=files.read_description(workdir),
        overview=_overview(settings, records, matrix),
        panels=matrix.panels,
        panel_notes=tables.panel_notes(matrix),
        claim_note=tables.claim_note(matrix),
        result_rows=tables.result_rows(matrix, "success", by_chance),
        score_rows=tables.result_rows(matrix, "score", by_chance),
        subset_tables=tables.subset_tables(matrix, settings),
        gain_rows=tables.gain_rows(matrix, settings),
        effect_rows=tables.effect_rows(matrix, settings),
        transfer_tables=tables.transfer_tables(matrix, settings),
        forgetting_rows=tables.forgetting_rows(matrix, settings),
        charts=_draw_charts(records, settings),
        times=_time_bars(records),
        failures=_failure_bars(surveyed),
        failure_tables=tables.failure_tables(surveyed, settings),
        failure_texts=failures.MEANINGS,
        transcripts=list(surveyed.all_examples()),
    )
    path = workdir / FILE
    # A lone surrogate in an answer must not cost the whole page.
    storage.write(path, page.encode(errors="replace"))
    return path


def read_metrics(workdir: pathlib.Path) -> Records:
    """Reads the lines of `metrics.jsonl`.

    Raises:
      ConfigError: if the run has not finished an iteration.
    """
    path = workdir / metrics.FILE
    records = list(jsonl.read(path)) if path.is_file() else []
    if not records:
        raise errors.ConfigError(
            f"{workdir} holds no {metrics.FILE} with a finished iteration, so there is "
            "nothing to report; start or continue the run with launch.train first."
        )
    return records


def _overview(
    settings: config.RunConfig, records: Records, matrix: transfer.ResultMatrix
) -> list[tuple[str, str]]:
    hours = sum(r.get("time/total") or 0 for r in records) / 3600
    planned = sum(stage.num_iterations for stage in settings.stages)
    tiles = [
        ("Stages", " \N{RIGHTWARDS ARROW} ".join(s.name for s in settings.stages)),
        ("Iterations", f"{len(records)} of {planned}"),
        *_missing_tile(settings, records),
        ("Training time", f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"),
    ]
    if matrix.stages:
        last = matrix.stages[-1]
        for panel in matrix.panels:
            for result in matrix.results_of(last, panel):
                text = f"{100 * result.mean:.1f} %"
                tiles.append((f"{panel}, avg@{result.samples}", text))
    return tiles


def _missing_tile(
    settings: config.RunConfig, records: Records
) -> list[tuple[str, str]]:
    """Names the iterations before the last one that have no line, if there are any."""
    places = [coverage.place_of(record, metrics.FILE) for record in records]
    missing = coverage.describe_missing(settings.stages, max(places), places)
    return [("Missing", missing)] if missing else []


def _draw_charts(records: Records, settings: config.RunConfig) -> list[dict[str, Any]]:
    borders = []
    for index, record in enumerate(records):
        if not borders or borders[-1][1] != record["stage"]:
            borders.append((index, record["stage"]))
    charts = []
    for title, name, unit, axis in _CHARTS:
        names = {"": name}
        if "*" in name:
            names = {env: name.replace("*", env) for env in settings.environments}
        columns = {label: _column(records, key) for label, key in names.items()}
        columns = {k: v for k, v in columns.items() if np.isfinite(v).any()}
        if columns:
            svg = plots.draw_lines(
                list(columns.values()),
                borders=borders,
                percent=axis == "percent",
                logarithmic=axis == "logarithmic",
            )
            legend = zip(columns, itertools.cycle(plots.COLORS), strict=False)
            chart = {"title": title, "unit": unit, "svg": markupsafe.Markup(svg)}
            charts.append({**chart, "legend": list(legend)})
    return charts


def _column(records: Records, name: str) -> np.ndarray:
    return np.array([_number(record.get(name)) for record in records], np.float64)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


Part = tuple[str, float, str, str]  # name, share of the bar, amount as text, colour


@dataclasses.dataclass(frozen=True)
class Bar:
    """A row of a stacked bar chart."""

    label: str
    note: str
    parts: tuple[Part, ...]


def _time_bars(records: Records) -> list[Bar]:
    by_stage: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for record in records:
        by_stage[record["stage"]].append(record)
    bars = []
    names = sorted({key for r in records for key in r if key.startswith("time/")})
    names = [name for name in names if name != "time/total"]
    for stage, group in by_stage.items():
        seconds = {
            name.removeprefix("time/"): float(np.nansum(_column(group, name)))
            for name in names
        }
        total = float(np.nansum(_column(group, "time/total"))) or sum(seconds.values())
        seconds["rest"] = max(0.0, total - sum(seconds.values()))
        per_iteration = total / len(group)
        note = f"{per_iteration:.2f} s per iteration"
        bars.append(Bar(stage, note, _to_parts(seconds, ".1f")))
    return bars


def _to_parts(amounts: Mapping[str, float], form: str) -> tuple[Part, ...]:
    """Parts of a bar; a name has one colour in all bars over the same names."""
    total = sum(amounts.values())
    colors = itertools.cycle(plots.COLORS)
    return tuple(
        (name, amount / total, format(amount, form), color)
        for (name, amount), color in zip(amounts.items(), colors, strict=False)
        if amount > 0.001 * total
    )


def _failure_bars(found: survey.Survey) -> list[Bar]:
    """Returns the main failure tags of each stage and environment."""
    bars = []
    for (stage, env), counted in found.main_tags.items():
        amounts = {tag: counted[tag] for tag in failures.TAGS}
        amounts["not failed"] = counted[""]
        failed = found.num_failed(stage, env)
        note = f"{failed} of {counted.total()} episodes failed"
        parts = _to_parts(amounts, "d")
        bars.append(Bar(f"{stage} \N{MIDDLE DOT} {env}", note, parts))
    return bars
