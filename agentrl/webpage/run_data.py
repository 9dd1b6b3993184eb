"""What the page shows of one run, kept up to date while the run grows.

A page is made of sections, each a JSON object with a version that rises when it changes:

  overview     name, stages, progress, provenance
  curves       metrics of all iterations
  results      evaluations
  failures     how episodes end and why they fail
  episodes     how many there are; they themselves come in chunks
"""

import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

from agentrl import config, errors, refusals
from agentrl.experiment import files
from agentrl.reporting import metrics, survey, tables
from agentrl.statistics import results, transfer
from agentrl.transcripts import failures
from agentrl.webpage import curves, episode_index, evaluations, follow

SECTIONS = ("overview", "curves", "results", "failures", "episodes")
_BYTES_AT_ONCE = 1 << 22  # of episodes; between them others get their turn
_LATEST = 8  # episodes that a live page names
_ACTIVE_S = 120.0  # without a new iteration a run is shown as resting


class RunData:
    """One run; `refresh` reads what is new."""

    def __init__(
        self, workdir: pathlib.Path, *, clock: Callable[[], float] = time.time
    ):
        """Reads the configuration.

        Raises:
          ConfigError: if the directory holds no run.
        """
        self.workdir, self._clock = workdir, clock
        self._described: dict[str, Any] = {}
        self.settings: config.RunConfig
        self.index: episode_index.EpisodeIndex
        self.found: list[results.EvaluationResult] = []
        self.by_chance: tables.ByChance = {}
        self.versions: dict[str, int] = dict.fromkeys(SECTIONS, 0)
        self.problem = ""  # what of the files cannot be read
        self._texts: dict[str, str] = {}
        self._configured: object = None
        self._generation = 0  # of the index before the configuration changed
        self._evaluated: object = None
        self._judged = -1.0, (-1, -1)  # when, and how many episodes
        self._open()

    def _open(self) -> None:
        """Starts anew; the configuration may have changed on resume."""
        self.settings = files.read_run(self.workdir)
        self._described = files.read_description(self.workdir)
        if self._configured is not None:
            self._generation = self.index.generation
        self._configured = _stamp(self.workdir / files.RUN_FILE)
        self.index = episode_index.EpisodeIndex(
            self.workdir, self.settings, generation=self._generation
        )
        self._open_curves()
        self._evaluated = None

    def _open_curves(self) -> None:
        self._metrics = follow.FollowedFile(self.workdir / metrics.FILE)
        self.curves = curves.RunCurves(self.settings)

    def refresh(self, *, complete: bool = False) -> bool:
        """Reads what is new; returns whether episodes are left to read.

        What cannot be read is told on the page, and the rest goes on.

        Args:
          complete: read all episodes at once, judge them, and raise what cannot be read.

        Raises:
          ConfigError, DamagedFileError, OSError: if the directory holds no run any more,
            or, with `complete`, if any file of the run cannot be read.
        """
        if _stamp(self.workdir / files.RUN_FILE) != self._configured:
            self._open()
        problems: list[Exception] = []
        more = False
        for part in (
            self._refresh_curves,
            self._refresh_results,
            lambda: self._refresh_episodes(complete=complete),
        ):
            try:
                more = bool(part())
            except refusals.EXPECTED as error:
                problems.append(error)
        if complete and problems:
            raise problems[0]
        self._refresh_failures(at_once=complete, more=more)
        self.set_problem(" ".join(map(str, problems)))
        self._set("overview", self._describe())
        return more

    def _refresh_episodes(self, *, complete: bool) -> bool:
        place = len(self.index), self.index.generation
        try:
            if complete:
                self.index.read_all()
            return not complete and self.index.refresh(_BYTES_AT_ONCE)
        finally:
            if place != (len(self.index), self.index.generation) or (
                "episodes" not in self._texts
            ):
                value = {
                    "total": len(self.index),
                    "generation": self.index.generation,
                    "latest": self.index.latest(_LATEST),
                }
                self._set("episodes", value)

    def section(self, name: str) -> str:
        """Returns the JSON of a section; `null` before it has been read."""
        return self._texts.get(name, "null")

    def _set(self, name: str, value: Any) -> None:
        text = to_json(value)
        if text != self._texts.get(name):
            self._texts[name] = text
            self.versions[name] += 1

    def _refresh_curves(self) -> None:
        count = len(self.curves)
        try:
            self.curves.add(line.record for line in self._metrics.read(1 << 60))
        except follow.FileWasCut:
            self._open_curves()
            self.curves.add(line.record for line in self._metrics.read(1 << 60))
            count = -1
        if count != len(self.curves) or "curves" not in self._texts:
            value = {"stages": self.curves.to_json(), "totals": self.curves.totals()}
            self._set("curves", value)

    def _refresh_results(self) -> None:
        folder = self.workdir / results.FOLDER
        paths = [*folder.glob("*.json"), *folder.glob("*/*.json")]
        stamps = sorted((str(path), _stamp(path)) for path in paths)
        if stamps == self._evaluated:
            return
        self.found = results.load_all(self.workdir, self.settings.environments)
        self.by_chance = results.load_random(self.workdir)
        matrix = transfer.to_matrix({self.settings.seed: self.found})
        value = evaluations.describe(matrix, self.settings, self.by_chance)
        self._set("results", value if self.found else None)
        self._evaluated = stamps

    def _refresh_failures(self, *, at_once: bool, more: bool) -> None:
        """Counts failures, seldom while episodes pour in: that takes a while."""
        then, counted = self._judged
        place = len(self.index), self.index.generation
        if place == counted or (
            not at_once and (more or self._clock() - then < 5) and then >= 0
        ):
            return
        found = survey.Survey.join(self.index.find_surveys())
        self._set("failures", describe_failures(found, self.settings))
        self._judged = self._clock(), place

    def _describe(self) -> dict[str, Any]:
        described = self._described
        stages = []
        for stage in self.settings.stages:
            of_stage = self.curves.stages.get(stage.name)
            stages.append(
                {
                    "name": stage.name,
                    "algorithm": stage.algorithm.NAME,
                    "supervised": stage.supervised,
                    "planned": stage.num_iterations,
                    "done": len(of_stage.iterations) if of_stage else 0,
                    "environments": [n for n, _ in stage.mixture.environments],
                }
            )
        last = next(reversed(self.curves.stages.values()), None)
        kept = ("date", "devices", "versions", "git", "command", "changes", "continued")
        return {
            "name": self.settings.name,
            "workdir": str(self.workdir),
            "seed": self.settings.seed,
            "stages": stages,
            "environments": list(self.settings.environments),
            "missing": self.curves.describe_missing(),
            "problem": self.problem,
            "last_wall_time": last.wall_times[-1] if last else None,
            "resting_after_s": _ACTIVE_S,
            **{name: described.get(name) for name in kept},
            "config": described.get("config"),
        }

    def set_problem(self, problem: str) -> None:
        """Says on the page what of the files cannot be read; empty for nothing."""
        if problem != self.problem:
            self.problem = problem
            self._set("overview", self._describe())

    def recipe(self) -> str:
        """A text that runs share which differ in their seed alone."""
        return evaluations.recipe_of(self._described.get("config") or {})

    def check_begun(self) -> None:
        """Raises `ConfigError` if the run has not finished an iteration."""
        if not len(self.curves):
            raise errors.ConfigError(
                f"{self.workdir} holds no {metrics.FILE} with a finished iteration, so "
                "there is nothing to report; start or continue the run with "
                "launch.train first."
            )


def describe_failures(
    found: survey.Survey, settings: config.RunConfig
) -> dict[str, Any]:
    """Returns main tags, shares of all tags, and examples, by stage and environment."""
    bars = [
        {
            "stage": stage,
            "env": env,
            "counts": {tag: counted[tag] for tag in failures.TAGS if counted[tag]},
            "succeeded": counted[""],
        }
        for (stage, env), counted in found.main_tags.items()
    ]
    shares = [
        evaluations.table_to_json(env, "", "tag", stages, rows)
        for env, stages, rows in tables.failure_tables(found, settings)
    ]
    examples = [
        {
            "stage": stage,
            "env": env,
            "tag": tag,
            "item": example.episode.item_id,
            "number": example.number,
        }
        for stage, env in found.main_tags
        for tag in ("", *failures.TAGS)
        for example in found.find_examples(stage, env, tag)[:1]
    ]
    return {
        "bars": bars,
        "tables": shares,
        "examples": examples,
        "meanings": failures.MEANINGS,
    }


def to_json(value: Any) -> str:
    """Returns JSON that may stand in a script of a page, as it holds no tag."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _stamp(path: pathlib.Path) -> tuple[int, int, int] | None:
    """What changes when a file does; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
