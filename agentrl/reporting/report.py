"""One page about a run: results, transfer, curves, time, failures and transcripts.

`report.html` needs nothing but itself: charts are inline SVG, there are no scripts and
no external files.
"""

import collections
import dataclasses
import io
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
import numpy as np
import rich.box
import rich.console
import rich.table

from agentrl import config, errors, storage
from agentrl.experiment import files
from agentrl.reporting import (
    coverage,
    episodes,
    failures,
    jsonl,
    metrics,
    plots,
    results,
    transfer,
)

FILE = "report.html"
_TEMPLATE = pathlib.Path(__file__).with_name("report_template.html")
_LATE = 0.75  # of a stage; episodes before that say little about what it led to

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
        "policy/first_gap",
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
    matrix = transfer.to_matrix(results.load_all(workdir, settings.environments))
    survey = survey_episodes(workdir, settings)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    page = environment.from_string(_TEMPLATE.read_text()).render(
        run=files.read_description(workdir),
        overview=_overview(settings, records, matrix),
        result_rows=_result_rows(matrix),
        gain_rows=_gain_rows(matrix, settings),
        effect_rows=_effect_rows(matrix, settings),
        forgetting=[
            _Cell.of_difference(matrix.forgetting(panel), bad_if_positive=True)
            for panel in matrix.panels
        ],
        panels=matrix.panels,
        panel_notes=_panel_notes(matrix),
        charts=_draw_charts(records, settings),
        times=_time_bars(records),
        failures=survey.bars(),
        failure_texts=failures.MEANINGS,
        transcripts=list(survey.latest.values()),
    )
    path = workdir / FILE
    # A lone surrogate in an answer must not cost the whole page.
    storage.write(path, page.encode(errors="replace"))
    return path


def read_metrics(workdir: pathlib.Path) -> Records:
    """The lines of `metrics.jsonl`.

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


def format_table(found: Sequence[results.EvaluationResult]) -> str:
    """Success after each stage on each panel, and what the panels are, as text."""
    if not found:
        return "No evaluation has been stored."
    matrix = transfer.to_matrix(found)
    table = rich.table.Table(
        title=f"avg@{found[-1].samples} in %, with 95 % bootstrap intervals over tasks",
        box=rich.box.SIMPLE_HEAD,
    )
    table.add_column("after stage")
    for panel in matrix.panels:
        table.add_column(panel, justify="right")
    for stage in matrix.stages:
        cells = []
        for panel in matrix.panels:
            result = matrix.cells.get((stage, panel))
            cells.append(_format_estimate(result) if result is not None else "")
        table.add_row(stage, *cells)
    output = io.StringIO()
    rich.console.Console(file=output, width=160, no_color=True).print(table)
    return "\n".join([output.getvalue().rstrip(), *_panel_notes(matrix)])


def _format_estimate(result: results.EvaluationResult) -> str:
    value = results.avg_at_k(result)
    text = f"{100 * value.mean:5.1f}  [{100 * value.low:5.1f}, {100 * value.high:5.1f}]"
    return f"{text}  {result.num_lost} lost" if result.num_lost else text


@dataclasses.dataclass(frozen=True)
class _Cell:
    """A number of a table, its interval, and how strongly it is tinted."""

    text: str = ""
    note: str = ""
    tint: float = 0.0  # -1 .. 1: red to green
    emphasis: bool = False
    mark: str = ""
    interval: results.Estimate | None = None  # drawn below the number

    @classmethod
    def of_result(cls, result: results.EvaluationResult | None) -> "_Cell":
        if result is None:
            return cls()
        value, k = results.avg_at_k(result), result.samples
        best = results.mean_pass_at_k(result, k)
        notes = [
            f"{100 * value.low:.1f} to {100 * value.high:.1f}",
            f"pass@{k} {100 * best:.1f}",
        ]
        if result.num_lost:
            notes.append(f"{result.num_lost} lost")
        return cls(
            text=f"{100 * value.mean:.1f}",
            note=" \N{MIDDLE DOT} ".join(notes),
            interval=value,
        )

    @classmethod
    def of_difference(
        cls,
        value: results.Estimate | None,
        *,
        bad_if_positive: bool = False,
        mark: str = "",
    ) -> "_Cell":
        if value is None:
            return cls()
        direction = -1 if bad_if_positive else 1
        return cls(
            text=_signed(value.mean),
            note=f"{_signed(value.low)} to {_signed(value.high)}",
            tint=direction * float(np.clip(value.mean / 0.4, -1, 1)),
            emphasis=value.excludes_zero,
            mark=mark,
        )


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


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
            if (last, panel) in matrix.cells:
                result = matrix.cells[last, panel]
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


def _result_rows(matrix: transfer.ResultMatrix) -> list[tuple[str, list[_Cell]]]:
    return [
        (stage, [_Cell.of_result(matrix.cells.get((stage, p))) for p in matrix.panels])
        for stage in matrix.stages
    ]


def _panel_notes(matrix: transfer.ResultMatrix) -> list[str]:
    """What the panels are, and what the environments lost of them."""
    latest = {panel: result for (_, panel), result in matrix.cells.items()}
    panels = [
        f"{panel}: {len(result.item_ids)} tasks \N{MULTIPLICATION SIGN} "
        f"{result.samples} samples, split {result.split}, tier {result.tier}, "
        f"{result.panel_version}, digest {result.panel_digest}"
        for panel, result in latest.items()
    ]
    losses = [
        f"{panel} after stage {stage}: the environment lost {result.num_lost} of "
        f"{result.samples * len(result.item_ids)} samples, which do not count; "
        f"{result.num_lost_tasks} of {len(result.item_ids)} tasks have no other"
        for (stage, panel), result in matrix.cells.items()
        if result.num_lost
    ]
    return panels + losses


def _gain_rows(
    matrix: transfer.ResultMatrix, settings: config.RunConfig
) -> list[tuple[str, list[_Cell]]]:
    """Gains of every reinforcement stage over the policy before the first of them."""
    kinds = {stage.name: stage.kind for stage in settings.stages}
    baselines = list(
        itertools.takewhile(lambda stage: kinds.get(stage) != "rl", matrix.stages)
    )
    if not baselines:
        return []
    return [
        (
            stage,
            [
                _Cell.of_difference(matrix.change(baselines[-1], stage, panel))
                for panel in matrix.panels
            ],
        )
        for stage in matrix.stages
        if kinds.get(stage) == "rl"
    ]


def _effect_rows(
    matrix: transfer.ResultMatrix, settings: config.RunConfig
) -> list[tuple[str, list[_Cell]]]:
    """Change that each stage made, then its means over trained and other panels."""
    trained_on = {
        stage.name: {name for name, _ in stage.mixture.environments}
        for stage in settings.stages
    }
    rows = []
    for before, stage in zip(matrix.stages, matrix.stages[1:], strict=False):
        trained = [env in trained_on.get(stage, ()) for env in matrix.environments]
        changes = [matrix.change(before, stage, panel) for panel in matrix.panels]
        cells = [
            _Cell.of_difference(change, mark="trained" if inside else "")
            for change, inside in zip(changes, trained, strict=True)
        ]
        for wanted in (True, False):
            chosen = [
                change.mean
                for change, inside in zip(changes, trained, strict=True)
                if change is not None and inside is wanted
            ]
            text = _signed(float(np.mean(chosen))) if chosen else ""
            cells.append(_Cell(text))
        rows.append((stage, cells))
    return rows


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


@dataclasses.dataclass(frozen=True)
class Example:
    """A stored episode worth reading, and where it is stored."""

    episode: episodes.StoredEpisode
    place: str  # FILE:LINE, as `launch.play --replay` takes it

    @property
    def num_tokens(self) -> int:
        """Tokens the policy wrote."""
        return sum(turn.action_tokens for turn in self.episode.turns)


@dataclasses.dataclass(frozen=True)
class Survey:
    """What the episodes of each (stage, environment) show."""

    latest: dict[tuple[str, str, bool], Example] = dataclasses.field(
        default_factory=dict
    )  # the last success and the last failure
    counts: dict[tuple[str, str], collections.Counter[str]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )  # by main failure tag; "" for what did not fail

    def add(self, episode: episodes.StoredEpisode, place: str) -> None:
        """Takes in one episode; those that their environment lost do not count."""
        if episode.ending.lost:
            return
        key = (episode.stage, episode.env)
        self.latest[*key, episode.success] = Example(episode, place)
        self.counts[key][episode.failures[0] if episode.failures else ""] += 1

    def bars(self) -> list[Bar]:
        """Main failure tags of each stage and environment."""
        bars = []
        for (stage, env), counted in self.counts.items():
            total = counted.total()
            amounts = {tag: counted[tag] for tag in failures.TAGS}
            amounts["not failed"] = counted[""]
            note = f"{total - counted['']} of {total} episodes failed"
            parts = _to_parts(amounts, "d")
            bars.append(Bar(f"{stage} \N{MIDDLE DOT} {env}", note, parts))
        return bars


def survey_episodes(workdir: pathlib.Path, settings: config.RunConfig) -> Survey:
    """Reads stored episodes, one at a time.

    Those of a stage's evaluation, or, where it was not evaluated, those of the last
    quarter of its training.

    Returns:
      Main failure tags, and for each stage and environment the last success and the
      last failure.
    """
    survey = Survey()
    for stage in settings.stages:
        folder = workdir / episodes.FOLDER
        paths = sorted(folder.glob(f"evaluation.{stage.name}.*.jsonl"))
        first = 0
        if not paths:
            paths = [
                path for path in (folder / f"{stage.name}.jsonl",) if path.is_file()
            ]
            first = int(_LATE * stage.num_iterations)
        for path in paths:
            for line, episode in enumerate(episodes.read(path), start=1):
                if episode.iteration >= first:
                    survey.add(episode, f"{path}:{line}")
    return survey
