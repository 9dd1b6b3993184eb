"""How often the intervals of `agentrl.statistics.intervals` hold, by simulation.

Each case draws tasks, seeds and samples anew many times and counts how often the 95 %
interval holds the true number. Writes the table of docs/statistics.md:

  python -m benchmarks.bench_intervals --draws=20000
"""

import argparse
import dataclasses
import datetime
import pathlib
import platform
from collections.abc import Iterator

import numpy as np

from agentrl.statistics import intervals

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "statistics.md"
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
SAMPLES = 8
_LARGE = 2_000_000  # tasks behind a true number that has no formula


@dataclasses.dataclass(frozen=True)
class Coverage:
    """One line of the table."""

    interval: str
    case: str
    percent: float  # of draws whose interval holds the true number
    width: float  # mean, in points

    @property
    def off(self) -> float:
        """Distance from 95 %, in points."""
        return abs(self.percent - 95)


def draw_rates(kind: str, mean: float, shape: tuple[int, ...], rng) -> np.ndarray:
    """Chances of success of tasks with a given mean, by kind of difficulty.

    `u_shaped`: tasks are mostly hopeless or mostly solved; `hopeless_or_0.7`: two kinds of
    tasks; `alike`: nearly equal.
    """
    if kind == "u_shaped":
        a = 0.5 * mean / (1 - mean) if mean < 0.5 else 0.5
        b = 0.5 if mean < 0.5 else 0.5 * (1 - mean) / mean
        return rng.beta(a, b, shape)
    if kind == "hopeless_or_0.7":
        return np.where(rng.random(shape) < mean / 0.7, 0.7, 0.0)
    return rng.beta(mean * 8, (1 - mean) * 8, shape)


def share_cases() -> Iterator[tuple[str, float, int]]:
    """(difficulty, mean, tasks) of avg@8."""
    for kind in ("u_shaped", "hopeless_or_0.7", "alike"):
        for mean in (0.03, 0.07, 0.15, 0.4, 0.9):
            if kind != "hopeless_or_0.7" or mean < 0.7:
                for tasks in (31, 40, 100):
                    yield kind, mean, tasks


def cover_shares(draws: int, rng) -> list[Coverage]:
    """Coverage of `share_bounds` for avg@8."""
    found = []
    for kind, mean, tasks in share_cases():
        rates = draw_rates(kind, mean, (draws, tasks), rng)
        values = rng.binomial(SAMPLES, rates) / SAMPLES
        bounds = intervals.share_bounds(values, samples=SAMPLES)
        case = f"{kind}, {100 * mean:.0f} %, {tasks} tasks"
        found.append(_count("avg@8", case, mean, bounds))
    return found


def cover_other_shares(draws: int, rng) -> list[Coverage]:
    """Coverage for pass@k, for scores that are not binary and for tags' shares."""
    found = []
    for kind, mean, tasks in (("u_shaped", 0.15, 40), ("alike", 0.15, 100)):
        rates = draw_rates(kind, mean, (draws, tasks), rng)
        solved = rng.binomial(SAMPLES, rates)
        many = draw_rates(kind, mean, (_LARGE,), rng)
        for k in (2, 8):
            values = pass_at(solved, k)
            bounds = intervals.share_bounds(values, samples=SAMPLES / k)
            case = f"{kind}, {100 * mean:.0f} %, {tasks} tasks"
            true = float((1 - (1 - many) ** k).mean())
            found.append(_count(f"pass@{k}", case, true, bounds))
    for mean, tasks in ((0.1, 31), (0.4, 31), (0.4, 100)):
        quality = draw_rates("u_shaped", mean, (draws, tasks), rng)
        scores = rng.beta(4 * quality + 1e-3, 4 * (1 - quality) + 1e-3,
                          (SAMPLES, draws, tasks)).mean(axis=0)  # fmt: skip
        many = draw_rates("u_shaped", mean, (_LARGE,), rng)
        true = float(((4 * many + 1e-3) / (4 + 2e-3)).mean())
        bounds = intervals.share_bounds(scores, samples=SAMPLES)
        case = f"u_shaped, {100 * mean:.0f} %, {tasks} tasks"
        found.append(_count("score in [0, 1]", case, true, bounds))
    for mean, tasks in ((0.1, 31), (0.3, 31), (0.1, 100)):
        failed = rng.integers(0, SAMPLES + 1, (draws, tasks))
        tagged = rng.binomial(failed, draw_rates("u_shaped", mean, failed.shape, rng))
        values = tagged / np.maximum(failed, 1)
        size = failed.sum(axis=1, keepdims=True) / (failed > 0).sum(1, keepdims=True)
        bounds = intervals.share_bounds(
            values, samples=float(size.mean()), weights=failed
        )
        case = f"u_shaped, {100 * mean:.0f} %, {tasks} tasks, 0 to 8 failures each"
        found.append(_count("failure tag", case, mean, bounds))
    return found


def pass_at(solved: np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k of tasks with `SAMPLES` samples; see `results.pass_at_k`."""
    left = SAMPLES - solved
    product = np.ones(solved.shape)
    for index in range(k):
        product *= np.maximum(left - index, 0) / (SAMPLES - index)
    return 1 - product


@dataclasses.dataclass(frozen=True)
class Effect:
    """How training changes a task's log-odds of success."""

    name: str
    gain: float
    seed_spread: float  # standard deviations
    task_spread: float
    rest_spread: float
    base: float = -1.5  # log-odds before; tasks spread around it with deviation 2


EFFECTS = (
    Effect("no effect", 0.0, 0.0, 0.0, 0.3),
    Effect("gain, small seed spread", 1.5, 0.3, 0.7, 0.3),
    Effect("gain, big seed spread", 1.5, 1.0, 0.7, 0.5),
    Effect("no mean gain, big seed spread", 0.0, 1.0, 0.5, 0.5),
)


def draw_differences(
    effect: Effect, draws: int, seeds: int, tasks: int, rng, shifts=None
) -> np.ndarray:
    """Differences in avg@8, float[draws, seeds, tasks].

    `shifts` are the seeds' log-odds, where several environments share them.
    """
    normal = rng.standard_normal
    if shifts is None:
        shifts = effect.seed_spread * normal((draws, seeds, 1))
    before = effect.base + 2 * normal((draws, 1, tasks))
    after = before + effect.gain + effect.task_spread * normal((draws, 1, tasks))
    after = after + shifts + effect.rest_spread * normal((draws, seeds, tasks))
    before = before + 0.3 * normal((draws, seeds, tasks))
    solved = [rng.binomial(SAMPLES, _to_rate(odds)) for odds in (before, after)]
    return (solved[1] - solved[0]) / SAMPLES


def true_difference(effect: Effect, rng) -> float:
    """The mean over new seeds and tasks."""
    before = effect.base + 2 * rng.standard_normal(_LARGE)
    spreads = (effect.seed_spread, effect.task_spread, effect.rest_spread)
    spread = float(np.linalg.norm(spreads))
    after = before + effect.gain + spread * rng.standard_normal(_LARGE)
    before = before + 0.3 * rng.standard_normal(_LARGE)
    return float((_to_rate(after) - _to_rate(before)).mean())


def cover_policies(draws: int, rng) -> list[Coverage]:
    """Coverage of `policy_bounds` for one policy before and one after, as they are."""
    found = []
    for base in (-3.5, -2.0, -0.5):
        for gain, spread in ((0.0, 0.0), (0.0, 1.0), (0.8, 0.5), (2.0, 1.0)):
            effect = Effect("", gain, 0.0, spread, 0.0, base)
            true = true_difference(effect, rng)
            for tasks in (31, 100):
                table = draw_differences(effect, draws, 1, tasks, rng)
                bounds = intervals.policy_bounds([table], step=1 / SAMPLES)
                case = f"{100 * _to_rate(base):.0f} % before, {100 * true:+.1f} points"
                found.append(
                    _count("these policies", f"{case}, {tasks} tasks", true, bounds)
                )
    return found


def cover_recipes(draws: int, rng, *, seeds=(3, 5)) -> list[Coverage]:
    """Coverage of `recipe_bounds` for one environment."""
    found = []
    for effect in EFFECTS:
        true = true_difference(effect, rng)
        for count in seeds:
            for tasks in (40, 100):
                table = draw_differences(effect, draws, count, tasks, rng)
                bounds = intervals.recipe_bounds([table], step=1 / SAMPLES)
                case = f"{effect.name}, {count} seeds, {tasks} tasks"
                found.append(_count("this recipe", case, true, bounds))
    return found


def cover_averages(draws: int, rng) -> list[Coverage]:
    """Coverage for the mean of three environments, trained by the same seeds."""
    found = []
    for effect in EFFECTS:
        true = true_difference(effect, rng)
        shifts = effect.seed_spread * rng.standard_normal((draws, 3, 1))
        tables = [
            draw_differences(effect, draws, 3, tasks, rng, shifts)
            for tasks in (31, 40, 100)
        ]
        bounds = intervals.recipe_bounds(tables, step=1 / SAMPLES)
        case = f"{effect.name}, 3 seeds, environments of 31, 40 and 100 tasks"
        found.append(_count("this recipe, average", case, true, bounds))
    return found


def _count(interval: str, case: str, true: float, bounds) -> Coverage:
    if isinstance(bounds, intervals.Bounds):
        low, high = bounds.mean - bounds.half, bounds.mean + bounds.half
    else:
        _, low, high = bounds
    percent = 100 * float(np.mean((low <= true) & (true <= high)))
    return Coverage(interval, case, percent, 100 * float(np.mean(high - low)))


def _to_rate(log_odds):
    return 1 / (1 + np.exp(-log_odds))


def cover_all(draws: int, seed: int = 0) -> list[Coverage]:
    """All lines of the table."""
    rng = np.random.default_rng(seed)
    return [
        *cover_shares(draws, rng),
        *cover_other_shares(draws, rng),
        *cover_policies(draws, rng),
        *cover_recipes(draws, rng),
        *cover_recipes(draws, rng, seeds=(2,)),
        *cover_averages(draws, rng),
    ]


def format_table(found: list[Coverage], draws: int) -> str:
    """The table as Markdown, with command, machine and date."""
    date = datetime.date.today().isoformat()
    lines = [
        f"`python -m benchmarks.bench_intervals --draws={draws}`, {date}, NumPy "
        f"{np.__version__}, {platform.machine()} CPU; standard error of a coverage "
        f"{100 * (0.95 * 0.05 / draws) ** 0.5:.2f} points.",
        "",
        "| interval | case | covers, % | width, points |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {line.interval} | {line.case} | {line.percent:.1f} | {line.width:.1f} |"
        for line in found
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures all intervals and writes the table into docs/statistics.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=20000, help="panels per case")
    draws = parser.parse_args().draws
    found = cover_all(draws)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    table = format_table(found, draws)
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    worst = max(found, key=lambda line: line.off)
    print(f"{len(found)} cases; furthest from 95 %: {worst}")


if __name__ == "__main__":
    main()
