"""Confidence intervals of evaluation results: formulas, no resampling, no files.

Two questions are asked of a difference, and each has its own interval:

* Did these policies change? Tasks are what a new panel would redraw
  (`policy_difference`).
* Would the recipe change a policy again? Seeds are redrawn as well
  (`recipe_difference`).

All numbers are shares in [0, 1] or differences of them unless `limits` says otherwise.
Intervals are two-sided at 95 %. `benchmarks/bench_intervals.py` measures how often each
holds; `docs/statistics.md` keeps its table.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

LEVEL = 0.95
POWER = 0.8  # of the smallest difference that a design can call
# The next two were chosen by simulation; docs/statistics.md has the coverage.
_PRIOR = 1.0  # weight of the largest design effect; see `share_bounds`
_REST_TAKEN_OUT = 0.8  # see `recipe_bounds`


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with the ends of its 95 % interval."""

    mean: float
    low: float
    high: float
    standard_error: float = math.nan  # NaN where the interval is not a t interval
    degrees: float = math.nan  # of freedom, of that t interval

    @property
    def excludes_zero(self) -> bool:
        """True if the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    @property
    def p_value(self) -> float:
        """Two-sided p-value of "the true number is 0"; below 0.05 as 0 is excluded.

        NaN where the interval is not a t interval.
        """
        if self.standard_error in (0, math.inf):
            return float(self.mean == 0 or self.standard_error == math.inf)
        return float(
            2 * special.stdtr(self.degrees, -abs(self.mean) / self.standard_error)
        )

    @property
    def smallest_callable(self) -> float:
        """The smallest true difference that this design calls 80 % of the time.

          (t[0.975, df] + t[0.8, df]) x standard error

        Cohen 1988, Statistical Power Analysis, section 2.2, with t for normal quantiles.
        NaN where the interval is not a t interval.
        """
        quantiles = t_quantile(self.degrees) + special.stdtrit(self.degrees, POWER)
        return float(quantiles * self.standard_error)


def t_quantile(degrees: float | np.ndarray, level: float = LEVEL) -> np.ndarray:
    """The quantile of Student's t at (1 + level) / 2; infinite at 0 degrees of freedom."""
    degrees = np.asarray(degrees, np.float64)
    safe = np.where(degrees > 0, degrees, 1)
    return np.where(degrees > 0, special.stdtrit(safe, (1 + level) / 2), np.inf)


def share_bounds(
    values: np.ndarray,
    *,
    samples: float,
    weights: np.ndarray | None = None,
    level: float = LEVEL,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of shares over tasks, with Wilson's interval for an effective sample size.

      m = sum w x / sum w,   s^2 = sum (w (x - m) / mean(w))^2 / (n - 1)
      d = s^2 / (m (1 - m)),   between 1 / samples and d_max = n sum w^2 / (sum w)^2
      J = min of (sum y)^2 / sum y^2 over y = w x and y = w (1 - x)
      d' = (J^2 d + d_max) / (J^2 + 1),   n_eff = n / d'
      (m + q / 2 n_eff -+ t sqrt(m (1 - m) / n_eff + q / 4 n_eff^2)) / (1 + q / n_eff)
      with t of n - 1 degrees of freedom and q = t^2

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953; effective size and t
    quantile as in Korn and Graubard 1998, Survey Methodology 24(2). d is the design effect
    per sample: 1 (with equal weights) if the samples of a task all agree, 1 / samples if
    tasks are all alike. Where few tasks hold all successes (or all failures), d is hardly
    known, so it is drawn towards its largest value; J is the effective number of those
    tasks. The weight 1 was chosen by simulation; docs/statistics.md has the coverage.

    The interval stays within [0, 1] and is never of width 0, not even if all values are 0.

    Args:
      values: float[..., n], one share per task; leading axes are independent panels.
      samples: mean number of samples behind a task's share.
      weights: float[..., n], weight of each task, such as its number of episodes; equal
        weights if None. Tasks of weight 0 do not count.
      level: of confidence.

    Returns:
      Mean, low and high end, float[...] each. One task says nothing about others: [0, 1].
    """
    values = np.asarray(values, np.float64)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, float)
    tasks = (weights > 0).sum(axis=-1)
    total = weights.sum(axis=-1)
    mean = (weights * values).sum(axis=-1) / total
    relative = weights * (tasks / total)[..., None]
    squares = (relative * (values - mean[..., None])) ** 2
    variance = squares.sum(axis=-1) / np.maximum(tasks - 1, 1)
    binomial = mean * (1 - mean)
    known = (binomial > 0) & (variance > 0)
    largest = tasks * (weights**2).sum(axis=-1) / total**2
    effect = np.where(known, variance / np.where(known, binomial, 1), largest)
    effect = np.clip(effect, 1 / samples, largest)
    holders = _count_holders(relative * values)
    evidence = np.minimum(holders, _count_holders(relative * (1 - values))) ** 2
    effect = (evidence * effect + _PRIOR * largest) / (evidence + _PRIOR)
    size = tasks / effect
    finite = np.where(tasks > 1, t_quantile(np.maximum(tasks - 1, 1), level), 0)
    square = finite**2
    center = (mean + square / (2 * size)) / (1 + square / size)
    half = finite * np.sqrt(binomial / size + square / (4 * size**2))
    half = half / (1 + square / size)
    low = np.where(tasks > 1, np.clip(center - half, 0, mean), 0.0)
    high = np.where(tasks > 1, np.clip(center + half, mean, 1), 1.0)
    return mean, low, high


def _count_holders(values: np.ndarray) -> np.ndarray:
    """Effective number of tasks that hold the total; 0 if the total is 0."""
    squares = (values**2).sum(axis=-1)
    return values.sum(axis=-1) ** 2 / np.where(squares > 0, squares, 1)


def share(
    values: np.ndarray,
    *,
    samples: float,
    weights: np.ndarray | None = None,
    level: float = LEVEL,
) -> Estimate:
    """`share_bounds` of one panel, for avg@k, pass@k and scores in [0, 1].

    Raises:
      ValueError: if there is no task, or a value lies outside [0, 1].
    """
    values = np.asarray(values, np.float64)
    if not values.size:
        raise ValueError("no task has a finished sample, so there is no mean.")
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"shares lie in [0, 1], but these go from {values.min()} to {values.max()}."
        )
    bounds = share_bounds(values, samples=samples, weights=weights, level=level)
    return Estimate(*map(float, bounds))


def average_shares(shares: Sequence[Estimate]) -> Estimate:
    """Mean of independent shares, such as those of several environments.

      low = m - sqrt(sum (m_e - low_e)^2) / E,   high likewise

    MOVER: Zou and Donner 2008, https://doi.org/10.1002/sim.3095. Keeps the asymmetry of
    the shares' own intervals near 0 and 1, which a t interval would lose. Scores of another
    range, whose intervals are t intervals, have no ends to be kept in.
    """
    mean = float(np.mean([one.mean for one in shares]))
    below = math.hypot(*(one.mean - one.low for one in shares)) / len(shares)
    above = math.hypot(*(one.high - one.mean for one in shares)) / len(shares)
    low, high = mean - below, mean + above
    if all(one.low >= 0 and one.high <= 1 for one in shares):
        low, high = max(low, 0.0), min(high, 1.0)
    return Estimate(mean, low, high)


def smallest_share(shares: Sequence[Estimate]) -> Estimate:
    """The smallest of several shares, with the smallest ends of their intervals.

    The data choose which one is smallest, so each of E shares must come with an interval
    of level 1 - 0.05 / E (Bonferroni): then all hold at once, and so do the ends.
    """
    return Estimate(*(min(ends) for ends in zip(
        *((one.mean, one.low, one.high) for one in shares), strict=True
    )))  # fmt: skip


def ratio(counts: np.ndarray, totals: np.ndarray) -> Estimate:
    """Share of episodes with a property, such as a failure tag, over tasks.

    Episodes of one task are not independent, so tasks are the sampling units: the
    ratio sum(counts) / sum(totals) is the mean of the tasks' shares weighted by
    `totals`; see `share_bounds`.

    Args:
      counts: int[tasks], episodes with the property.
      totals: int[tasks], episodes in all; tasks without any are left out.

    Raises:
      ValueError: if no task has an episode.
    """
    counts, totals = np.asarray(counts, float), np.asarray(totals, float)
    counts, totals = counts[totals > 0], totals[totals > 0]
    samples = float(totals.mean()) if totals.size else 1.0
    return share(counts / totals, samples=samples, weights=totals)


@dataclasses.dataclass(frozen=True)
class Bounds:
    """A mean and its t interval over leading axes of independent draws, float[...] each."""

    mean: np.ndarray
    half: np.ndarray  # half of the interval's width
    degrees: np.ndarray  # of freedom, Satterthwaite's


def policy_bounds(tables: Sequence[np.ndarray], *, step: float = 0.0) -> Bounds:
    """Mean difference of given policies over new tasks, environments weighing the same.

      D = 1/E sum_e mean_t d_et,   v = 1/E^2 sum_e s_e^2 / T_e
      D -+ t[df] sqrt(v),   df = (sum v_e)^2 / sum (v_e^2 / (T_e - 1))

    Paired t interval (Student 1908); degrees of freedom: Satterthwaite 1946,
    https://doi.org/10.2307/3002019. d_et is averaged over seeds first: the policies are
    given, so only tasks are random.

    Args:
      tables: of each environment float[..., S, T_e], the differences of S seeds on the
        same T_e tasks.
      step: smallest change of one task's difference, such as 1 / k. The standard error is
        at least that of tasks that are alike but for one such step, so that equal tasks
        do not count as certain.

    Returns:
      Bounds with the tables' leading axes; infinite halves if an environment has one
      task.
    """
    means, parts, degrees = [], [], []
    for table in tables:
        table = np.asarray(table, np.float64)
        tasks = table.shape[-1]
        by_task = table.mean(axis=-2)
        smallest = (step / table.shape[-2] / tasks) ** 2
        variance = by_task.var(axis=-1, ddof=1) / tasks if tasks > 1 else np.inf
        means.append(by_task.mean(axis=-1))
        parts.append(np.maximum(variance, smallest) + np.zeros_like(means[-1]))
        degrees.append(tasks - 1)
    total, joined = _join(np.stack(parts), degrees)
    half = t_quantile(joined) * np.sqrt(total) / len(tables)
    return Bounds(np.mean(means, axis=0), half, joined)


def _join(
    parts: np.ndarray, degrees: Sequence[float | np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of variances, and Satterthwaite's degrees of freedom of it.

    Args:
      parts: float[N, ...], independent variances; infinite ones are unknown.
      degrees: of freedom of each part.
    """
    total = parts.sum(axis=0)
    known = np.isfinite(total) & (total > 0)
    shares = np.where(known, parts / np.where(known, total, 1), 1)
    lost = np.zeros_like(total)
    for share_of_total, of_part in zip(shares, degrees, strict=True):
        lost = lost + share_of_total**2 / np.maximum(of_part, 1)
    return total, 1 / lost


def recipe_bounds(tables: Sequence[np.ndarray], *, step: float = 0.0) -> Bounds:
    """Mean difference over new seeds and new tasks, environments weighing the same.

    Two-way random effects: d_est = mean + seed_es + task_et + rest_est. One seed trains
    for all environments, so the part of seeds comes from each seed's number D_s, averaged
    over environments:

      a = var(D_s) / S,   b = 1/E^2 sum_e MS_task,e / (S T_e),   c = the same of MS_rest,e
      half^2 = t[S - 1]^2 max(a - 0.8 c, 0) + t[df_b]^2 b

    Crossed random effects: Searle, Casella and McCulloch 1992, Variance Components. The
    unbiased variance is a + b - c, as a and b both hold the rest. Each part has the t
    quantile of its own degrees of freedom, in the manner of Graybill and Wang 1980,
    JASA 75(372): Satterthwaite's for the sum are too many where three seeds happen to
    agree, and the interval then covers 92 % and less. Taking out 0.8 of c instead of all
    keeps it from covering too little.

    Two seeds have one degree of freedom, whose quantile, 12.7, outweighs tasks: their
    interval is the t interval of the D_s alone, with half^2 = t[1]^2 a. To take anything
    out of a would break it, and it covered 89 to 92 % where seeds differ.

    Args:
      tables: of each environment float[..., S, T_e], S the same and at least 2.
      step: as for `policy_bounds`.

    Returns:
      Bounds; degrees are Satterthwaite's of both parts. Infinite halves if an environment
      has one task.

    Raises:
      ValueError: with fewer than two seeds, or if environments differ in seeds.
    """
    seeds = {np.shape(table)[-2] for table in tables}
    if len(seeds) != 1 or min(seeds) < 2:
        raise ValueError(
            "a claim about a recipe needs two seeds or more, the same in all "
            f"environments; there are {sorted(seeds)}."
        )
    (count,) = seeds
    parts = [_split_variance(np.asarray(table, float), step) for table in tables]
    numbers = np.mean([part.seed_means for part in parts], axis=0)
    of_rest = np.sum([part.of_rest for part in parts], axis=0) / len(tables) ** 2
    of_tasks, task_degrees = _join(
        np.stack([part.of_tasks for part in parts]), [part.degrees for part in parts]
    )
    of_tasks = of_tasks / len(tables) ** 2
    spread = numbers.var(axis=-1, ddof=1) / count
    if count == 2:
        # Two that agree do not count as certain; one task says nothing about others.
        tasks = min(np.shape(table)[-1] for table in tables)
        smallest = (step / count / tasks) ** 2 if tasks > 1 else np.inf
        half = t_quantile(1) * np.sqrt(np.maximum(spread, smallest))
        return Bounds(numbers.mean(axis=-1), half, np.ones_like(half))
    of_seeds = np.maximum(spread - _REST_TAKEN_OUT * of_rest, 0)
    squares = t_quantile(count - 1) ** 2 * of_seeds
    squares = squares + t_quantile(task_degrees) ** 2 * of_tasks
    _, degrees = _join(np.stack([of_seeds, of_tasks]), [count - 1, task_degrees])
    return Bounds(numbers.mean(axis=-1), np.sqrt(squares), degrees)


@dataclasses.dataclass(frozen=True)
class _Variance:
    """What seeds, tasks and the rest add to the variance of one environment's mean."""

    seed_means: np.ndarray  # float[..., S]
    of_tasks: np.ndarray  # float[...]
    of_rest: np.ndarray  # float[...]
    degrees: int  # of freedom, of tasks


def _split_variance(table: np.ndarray, step: float) -> _Variance:
    seeds, tasks = table.shape[-2:]
    seed_means, task_means = table.mean(axis=-1), table.mean(axis=-2)
    overall = task_means.mean(axis=-1)
    rest = table - seed_means[..., None] - task_means[..., None, :]
    rest = rest + overall[..., None, None]
    squares = ((task_means - overall[..., None]) ** 2).sum(axis=-1)
    of_tasks = squares / (tasks - 1) / tasks if tasks > 1 else np.inf
    of_rest = (rest**2).sum(axis=(-2, -1)) / max((seeds - 1) * (tasks - 1), 1)
    return _Variance(
        seed_means=seed_means,
        of_tasks=np.maximum(of_tasks, (step / seeds / tasks) ** 2) + 0 * overall,
        of_rest=of_rest / (seeds * tasks),
        degrees=tasks - 1,
    )


def policy_difference(
    tables: Sequence[np.ndarray],
    *,
    step: float = 0.0,
    limits: tuple[float, float] = (-1.0, 1.0),
) -> Estimate:
    """`policy_bounds` as an estimate: holds for these policies only.

    Args:
      tables: of each environment float[S, T_e]; S is 1 for a single run.
      step: as for `policy_bounds`.
      limits: what a difference cannot pass; the interval of one task.
    """
    return _to_estimate(policy_bounds(tables, step=step), limits)


def recipe_difference(
    tables: Sequence[np.ndarray],
    *,
    step: float = 0.0,
    limits: tuple[float, float] = (-1.0, 1.0),
) -> Estimate:
    """`recipe_bounds` as an estimate: holds for other seeds of the same recipe.

    Args:
      tables: of each environment float[S, T_e].
      step: as for `policy_bounds`.
      limits: what a difference cannot pass.

    Raises:
      ValueError: with fewer than two seeds.
    """
    return _to_estimate(recipe_bounds(tables, step=step), limits)


def _to_estimate(bounds: Bounds, limits: tuple[float, float]) -> Estimate:
    mean, half = float(bounds.mean), float(bounds.half)
    degrees = float(bounds.degrees)
    return Estimate(
        mean=mean,
        low=max(mean - half, limits[0]),
        high=min(mean + half, limits[1]),
        standard_error=half / float(t_quantile(degrees)),
        degrees=degrees,
    )


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several comparisons, adjusted so that 5 % covers all of them.

      p'_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)),  p_(1) the smallest of m

    Holm 1979, Scandinavian Journal of Statistics 6(2). Holds for dependent comparisons,
    too. A NaN (no comparison) stays NaN and does not count.
    """
    found = [index for index, p in enumerate(p_values) if not math.isnan(p)]
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, index in enumerate(sorted(found, key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(found) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
