"""Sizes of a run from the tokens of its tasks: pure arithmetic, each with its reason."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agentrl import config, errors
from agentrl.advice import measure
from agentrl.experiment import fields
from agentrl.learner import packing
from agentrl.models import model_config

MAX_PADDING = (
    0.12  # of a layout that is accepted; the metric's healthy range ends at 0.3
)
_MIN_ROWS = 20  # of a batch, on each device
_LARGE = 1e9  # parameters from which published recipes take their rates
_OF_TRAINING = ("tasks_per_iteration", "group_size")  # an evaluation has its own
_STEP = 16  # tokens that sizes are rounded up to; 64 from 512 tokens on


@dataclasses.dataclass(frozen=True)
class Advice:
    """Fields of a configuration, by the dotted path below a run, and why."""

    rollout: Mapping[str, Any]  # of every stage, and of the evaluation
    learner: Mapping[str, Any]
    episodes_per_step: int  # of a supervised stage
    learning_rate: float
    reasons: Mapping[str, str]  # by field
    warnings: tuple[str, ...]
    padding: float  # the largest share that was simulated


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What a person decides."""

    tasks_per_iteration: int | None = None  # None: 16, or more to fill rows
    group_size: int = 8
    num_slots: int | None = None  # None takes a quarter of the episodes, at least 16
    devices: int = 1  # that rows and slots are shared by
    min_action_tokens: int = 0
    adapters: bool = False


def advise(
    measured: Sequence[measure.Tokens],
    model: model_config.ModelConfig,
    num_params: int,
    wishes: Wishes,
) -> Advice:
    """Chooses sizes for tasks of one or several environments.

    Args:
      measured: of each environment.
      model: gives the most positions.
      num_params: of the model.
      wishes: what is decided already.

    Raises:
      ConfigError: if a task does not fit into the model's positions.
    """
    action, why_action = _action_tokens(measured, wishes)
    most, why_most = _max_tokens(measured, action)
    warnings = _warn(measured, most, model.max_positions)
    most = min(most, model.max_positions)
    mean = float(np.mean([length for m in measured for length in m.lengths]))
    filling = _MIN_ROWS * wishes.devices * most / mean / wishes.group_size
    tasks = wishes.tasks_per_iteration or max(16, math.ceil(filling))
    num_episodes = tasks * wishes.group_size
    slots = wishes.num_slots or max(16, num_episodes // 4)
    row_tokens, padding = _row_tokens(measured, most, num_episodes, wishes.devices)
    warnings += _warn_of_padding(padding, tasks, filling, wishes)
    demonstrations = math.ceil(_MIN_ROWS * wishes.devices * row_tokens / mean)
    demonstrations = max(32, demonstrations)
    rows = _most_rows(most, row_tokens, max(num_episodes, demonstrations))
    appended, why_appended = _append_buckets(measured)
    rate, why_rate = _learning_rate(num_params, wishes.adapters)
    return Advice(
        rollout={
            "tasks_per_iteration": tasks,
            "group_size": wishes.group_size,
            "max_tokens": most,
            "max_action_tokens": action,
            "num_slots": math.ceil(slots / wishes.devices) * wishes.devices,
            "append_buckets": appended,
            "cache_buckets": _cache_buckets(measured, most),
        },
        learner={
            "row_tokens": row_tokens,
            "rows_per_microbatch": wishes.devices,
            "max_microbatches": math.ceil(rows / wishes.devices),
        },
        episodes_per_step=demonstrations,
        learning_rate=rate,
        reasons={
            "max_tokens": why_most,
            "max_action_tokens": why_action,
            "append_buckets": why_appended,
            "learning_rate": why_rate,
            **_reasons(measured, most, num_episodes, mean, padding),
        },
        warnings=warnings,
        padding=padding,
    )


def _reasons(
    measured: Sequence[measure.Tokens],
    most: int,
    num_episodes: int,
    mean: float,
    padding: float,
) -> dict[str, str]:
    """Reasons for what is counted in episodes and rows."""
    tokens = [length for m in measured for length in m.lengths]
    return {
        "tasks_per_iteration": f"{num_episodes} episodes of {mean:.0f} tokens, as the "
        f"oracle's are in the mean, fill {_MIN_ROWS} rows or more for each device: the "
        "last row, which is seldom full, is a small part then",
        "num_slots": f"a quarter of an iteration's {num_episodes} episodes live at a "
        "time, so that slots are filled again as episodes end; more while memory lasts "
        "(agentrl plan)",
        "cache_buckets": f"half of the oracle's episodes end within "
        f"{_quantile(tokens, 0.5)} tokens, nine tenths within {_quantile(tokens, 0.9)}",
        "row_tokens": f"of the widths up to four episodes of {most}, the narrowest "
        f"that wastes at most {MAX_PADDING:.0%} in simulated batches, else the least "
        f"wasteful; at most {padding:.1%} padding there",
        "rows_per_microbatch": "one row for each device: rows of a last microbatch "
        "that stay empty are computed, too",
        "max_microbatches": "room for every episode at its longest; unused ones cost "
        "nothing",
        "episodes_per_step": "of a warm start, to fill rows likewise",
    }


def round_up(tokens: float) -> int:
    """Rounds up to a multiple of 16; from 512 on, of 64."""
    step = _STEP if tokens <= 512 else 64
    return max(step, math.ceil(tokens / step) * step)


def _quantile(values: Sequence[int], share: float) -> int:
    return int(np.quantile(values, share, method="higher")) if len(values) else 0


def _action_tokens(
    measured: Sequence[measure.Tokens], wishes: Wishes
) -> tuple[int, str]:
    longest = max(max(m.actions) for m in measured)
    chosen = round_up(max(1.5 * longest, wishes.min_action_tokens))
    why = f"the oracle's longest answer has {longest} tokens, its stop token included; half"
    if chosen > round_up(1.5 * longest):
        return (
            chosen,
            f"{why} as much again would be {round_up(1.5 * longest)}, but a "
            + ("model that was tuned to explain itself writes longer answers"),
        )
    return chosen, f"{why} as much again for other words"


def _max_tokens(measured: Sequence[measure.Tokens], action: int) -> tuple[int, str]:
    """Room for every task, and for episodes that take longer than the oracle's."""
    needed, whole = 0, 0
    for found in measured:
        margin = 1.0 if found.looked_at_all else 1.1
        prompt = math.ceil(max(found.prompts) * margin)
        longest = max(*found.lengths, prompt + action)
        step = _quantile(found.observations, 0.95) + action
        needed = max(needed, longest)
        whole = max(whole, prompt + action + (found.max_turns - 1) * step, longest)
    if whole <= 2 * needed:
        return round_up(whole), (
            f"the longest first observation and all turns fit ({whole} tokens): no episode "
            "ends for want of tokens"
        )
    return round_up(1.5 * needed), (
        f"1.5 times the {needed} tokens of the oracle's longest episode; all turns at full "
        f"length would take {whole}, which only failures need"
    )


def _warn(
    measured: Sequence[measure.Tokens], most: int, positions: int
) -> tuple[str, ...]:
    warnings = []
    for found in measured:
        if max(found.prompts) >= positions:
            raise errors.ConfigError(
                f"a task of '{found.env}' begins with {max(found.prompts)} tokens, and the "
                f"model has model.max_positions = {positions}; take a model with more, or "
                "shorter observations."
            )
        if not found.looked_at_all:
            warnings.append(
                f"{found.env}: {len(found.prompts)} of {found.num_tasks} first "
                "observations were looked at, and a tenth was added; --prompts=0 looks at "
                "all."
            )
    if most > positions:
        warnings.append(
            f"max_tokens = {most} is cut to model.max_positions = {positions}: long "
            "episodes end there."
        )
    return tuple(warnings)


def _warn_of_padding(
    padding: float, tasks: int, filling: float, wishes: Wishes
) -> tuple[str, ...]:
    if padding <= MAX_PADDING or tasks >= filling:
        return ()
    return (
        f"{tasks * wishes.group_size} episodes an iteration fill few rows for "
        f"{wishes.devices} devices: up to {padding:.0%} of what is computed may be "
        f"padding; tasks_per_iteration = {math.ceil(filling)} wastes less.",
    )


def _row_tokens(
    measured: Sequence[measure.Tokens], most: int, num_episodes: int, devices: int
) -> tuple[int, float]:
    """The width of rows, and the largest padding of the batches simulated for it."""
    best: tuple[float, int] | None = None
    for factor in (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0):
        width = round_up(factor * most)
        worst = max(
            padding_of(batch, width, devices)
            for batch in _batches(measured, most, num_episodes)
        )
        if worst <= MAX_PADDING:
            return width, worst
        best = min(best or (worst, width), (worst, width))
    assert best is not None
    return best[1], best[0]


def _batches(
    measured: Sequence[measure.Tokens], most: int, num_episodes: int
) -> list[list[int]]:
    """Lengths of the episodes of an iteration, at its beginning and at its end.

    A policy that begins writes until a limit ends the episode; one that has learned plays
    like the oracle. Groups without a signal are left out of an update: a quarter is
    assumed to be left.
    """
    draw = np.random.default_rng(0)
    known = np.concatenate([np.asarray(m.lengths) for m in measured])
    batches = []
    for count in (num_episodes, max(8, num_episodes // 4)):
        learned = draw.choice(known, count)
        between = draw.integers(int(known.min()), most, count, endpoint=True)
        mixed = np.where(draw.random(count) < 0.5, learned, most)
        batches += [learned, between, mixed, np.full(count, most)]
    return [batch.tolist() for batch in batches]


def padding_of(lengths: Sequence[int], width: int, rows_per_microbatch: int) -> float:
    """Returns the share of computed tokens that is padding, as `learner.packing` packs."""
    rows = packing.assign_rows(range(len(lengths)), lengths, width)
    computed = math.ceil(len(rows) / rows_per_microbatch) * rows_per_microbatch
    return 1 - sum(lengths) / (computed * width)


def _most_rows(most: int, width: int, num_episodes: int) -> int:
    return math.ceil(num_episodes / (width // most))


def _append_buckets(measured: Sequence[measure.Tokens]) -> tuple[tuple[int, ...], str]:
    later = [tokens for m in measured for tokens in m.observations]
    first = max(max(m.prompts) for m in measured)
    usual, long = _quantile(later, 0.5), _quantile(later, 0.95)
    sizes = {round_up(usual), round_up(long), min(512, round_up(first))} if later else {
        min(512, round_up(first))
    }  # fmt: skip
    why = (
        f"later observations have {usual} tokens in the median and {long} in nineteen of "
        f"twenty, first ones up to {first}; longer ones are prefilled in pieces"
    )
    return tuple(sorted(sizes)), why


def _cache_buckets(measured: Sequence[measure.Tokens], most: int) -> tuple[int, ...]:
    tokens = [length for m in measured for length in m.lengths]
    sizes = {round_up(_quantile(tokens, 0.5)), round_up(_quantile(tokens, 0.9)), most}
    return tuple(sorted(size for size in sizes if size <= most))


def _learning_rate(num_params: int, adapters: bool) -> tuple[float, str]:
    if num_params < _LARGE / 10:
        rate, why = 3e-4, "what the demo trains its 0.8 million parameters with"
    elif num_params < _LARGE:
        rate, why = 5e-6, "between the demo's and that of larger models"
    else:
        rate, why = 1e-6, "a usual start for models of billions of parameters"
    if adapters:
        scaled = min(10 * rate, 2e-3)
        return scaled, f"adapters take about ten times the rate of all: {rate:g}, {why}"
    return rate, why


def to_overrides(advice: Advice, *, stages: str = "*") -> list[str]:
    """Returns the advice as `--set` takes it.

    Args:
      advice: what to set.
      stages: name of the stage; `*` for all.
    """
    lines = []
    for where in (f"stages.{stages}.rollout", "evaluation.rollout"):
        lines += [
            f"{where}.{name}={value!r}"
            for name, value in advice.rollout.items()
            if where != "evaluation.rollout" or name not in _OF_TRAINING
        ]
    lines += [f"learner.{name}={value!r}" for name, value in advice.learner.items()]
    lines.append(f"stages.{stages}.optimizer.learning_rate={advice.learning_rate!r}")
    return lines


def to_fragment(advice: Advice) -> str:
    """Returns the advice as a part of an experiment file."""
    parts = [
        ("ROLLOUT", "RolloutConfig", advice.rollout),
        ("LEARNER", "LearnerConfig", advice.learner),
        ("OPTIMIZER", "OptimizerConfig", {"learning_rate": advice.learning_rate}),
    ]
    parts.append(
        ("WARM_START", "Supervised", {"episodes_per_step": advice.episodes_per_step})
    )
    lines = ["from agentrl import config", ""]
    for name, kind, values in parts:
        lines.append(f"{name} = config.{kind}(")
        lines += [f"    {field}={value!r}," for field, value in values.items()]
        lines.append(")")
    return "\n".join(lines)


def apply(settings: config.RunConfig, advice: Advice) -> config.RunConfig:
    """Returns a run with the advice in all of its stages and its evaluation."""
    overrides = to_overrides(advice)
    overrides += [
        f"stages.{stage.name}.algorithm.episodes_per_step={advice.episodes_per_step}"
        for stage in settings.stages
        if stage.supervised
    ]
    for override in overrides:
        settings = fields.override(settings, override)
    return settings
