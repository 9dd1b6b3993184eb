"""What may change of a run that is gone on with, and which numbers a field may hold.

Both tables name fields by their dotted path; `*` stands for any member of a tuple or
entry of a mapping. `CHANGES` covers what lies below a path too, and the longest path
counts, so that it has an answer for every field; `BOUNDS` lists every number, except for
those of algorithms, which each of them checks itself.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from agentrl import config, errors

# free:     what is learned stays the same, bit for bit
# rounding: the same but for rounding, which may flip a draw between two tokens
# grows:    what was learned stays the same; more is learned after it
# results:  from now on something else is learned; needs --allow_changes
# fixed:    files of the run depend on it
Change = Literal["free", "rounding", "grows", "results", "fixed"]

CHANGES: Mapping[str, Change] = {
    "name": "free",
    "seed": "results",
    "weights": "fixed",
    "start_from": "fixed",
    "lora": "fixed",
    "trainable": "fixed",
    "model": "fixed",
    "model.attention": "rounding",
    "model.scan_blocks": "rounding",
    "model.precision": "results",
    "tokenizer": "fixed",
    "environments": "results",
    "evaluation": "free",
    "learner": "rounding",
    "learner.max_microbatches": "free",
    "mesh": "rounding",
    "num_env_workers": "free",
    "env_timeout_s": "free",
    "env_observation_bytes": "results",
    "env_worker_memory_mb": "free",
    "max_env_error_fraction": "free",
    "save_every": "free",
    "keep_checkpoints": "free",
    "token_episodes": "free",
    "token_hindsight": "free",
    "log_to": "free",
    "stages": "grows",
    "stages.*": "results",
    "stages.*.name": "fixed",
    "stages.*.num_iterations": "grows",
    "stages.*.evaluate_after": "free",
    "stages.*.algorithm.max_logprob_mismatch": "free",
    "stages.*.rollout.num_slots": "rounding",
    "stages.*.rollout.num_cohorts": "rounding",
    "stages.*.rollout.append_buckets": "rounding",
    "stages.*.rollout.cache_buckets": "rounding",
    "stages.*.rollout.row_buckets": "rounding",
}


@dataclasses.dataclass(frozen=True)
class Bound:
    """An interval of numbers; None is no limit. None as a value is never out of it."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def admits(self, value: float) -> bool:
        """Whether the number lies in it; NaN never does."""
        return (
            value == value
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        words = {
            "at least": self.at_least,
            "above": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        return " and ".join(f"{w} {v:g}" for w, v in words.items() if v is not None)


_COUNT = Bound(at_least=1)
_NOT_NEGATIVE = Bound(at_least=0)
_POSITIVE = Bound(above=0)
_FRACTION = Bound(at_least=0, at_most=1)
_DECAY = Bound(at_least=0, below=1)

_ROLLOUT = {
    "tasks_per_iteration": _COUNT,
    "group_size": _COUNT,
    "max_tokens": _COUNT,
    "max_action_tokens": _COUNT,
    "max_thinking_tokens": _NOT_NEGATIVE,
    "temperature": _NOT_NEGATIVE,
    "top_k": _NOT_NEGATIVE,
    "top_p": Bound(above=0, at_most=1),
    "num_slots": _COUNT,
    "num_cohorts": _COUNT,
    "append_buckets.*": _COUNT,
    "cache_buckets.*": _COUNT,
    "row_buckets.*": _COUNT,
}

BOUNDS: Mapping[str, Bound] = {
    "seed": Bound(at_least=0, below=2**32),
    "num_env_workers": _COUNT,
    "env_timeout_s": _POSITIVE,
    "env_observation_bytes": _COUNT,
    "env_worker_memory_mb": _COUNT,
    "max_env_error_fraction": _FRACTION,
    "save_every": _COUNT,
    "keep_checkpoints": _COUNT,
    "token_episodes": _NOT_NEGATIVE,
    "environments.*.max_turns": _COUNT,
    "model.vocab_size": _COUNT,
    "model.hidden_size": _COUNT,
    "model.num_layers": _COUNT,
    "model.num_heads": _COUNT,
    "model.num_kv_heads": _COUNT,
    "model.head_dim": _COUNT,
    "model.mlp_size": _COUNT,
    "model.rope_theta": _POSITIVE,
    "model.rope_scaling.factor": _POSITIVE,
    "model.rope_scaling.low_frequency_factor": _POSITIVE,
    "model.rope_scaling.high_frequency_factor": _POSITIVE,
    "model.rope_scaling.original_context": _COUNT,
    "model.norm_epsilon": _POSITIVE,
    "model.max_positions": _COUNT,
    "lora.rank": _COUNT,
    "lora.alpha": _POSITIVE,
    "tokenizer.vocab_size": _COUNT,
    "tokenizer.few_shot": _NOT_NEGATIVE,
    "evaluation.tasks": _NOT_NEGATIVE,
    "evaluation.samples": _COUNT,
    "evaluation.max_turns": _COUNT,
    **{f"evaluation.rollout.{name}": bound for name, bound in _ROLLOUT.items()},
    **{f"evaluation.rollouts.*.{name}": bound for name, bound in _ROLLOUT.items()},
    "learner.row_tokens": _COUNT,
    "learner.rows_per_microbatch": _COUNT,
    "learner.max_microbatches": _COUNT,
    "learner.logprob_chunk": _COUNT,
    "mesh.data": Bound(at_least=-1),
    "mesh.fsdp": _COUNT,
    "mesh.model": _COUNT,
    "mesh.cpu_devices": _COUNT,
    "stages.*.num_iterations": _COUNT,
    "stages.*.extra_groups": _NOT_NEGATIVE,
    "stages.*.max_staleness": _COUNT,
    "stages.*.max_turns.*.0": _NOT_NEGATIVE,
    "stages.*.max_turns.*.1": _COUNT,
    "stages.*.mixture.environments.*.1": _POSITIVE,
    "stages.*.mixture.temperature": _POSITIVE,
    "stages.*.optimizer.learning_rate": _POSITIVE,
    "stages.*.optimizer.warmup_steps": _NOT_NEGATIVE,
    "stages.*.optimizer.final_fraction": _FRACTION,
    "stages.*.optimizer.b1": _DECAY,
    "stages.*.optimizer.b2": _DECAY,
    "stages.*.optimizer.epsilon": _POSITIVE,
    "stages.*.optimizer.weight_decay": _NOT_NEGATIVE,
    "stages.*.optimizer.max_grad_norm": _POSITIVE,
    **{f"stages.*.rollout.{name}": bound for name, bound in _ROLLOUT.items()},
    "stages.*.algorithm.renamed_copies.*.1": _NOT_NEGATIVE,
    "stages.*.rehearsal.environments.*.1": _POSITIVE,
    "stages.*.rehearsal.coefficient": _POSITIVE,
    "stages.*.rehearsal.demonstrations": _COUNT,
    "stages.*.rehearsal.episodes_per_iteration": _COUNT,
}


def change_of(path: str) -> Change:
    """How a field may change.

    Args:
      path: dotted, with numbers or names of members, such as `stages.0.name`.

    Raises:
      KeyError: if no rule covers it, which is a fault of the table.
    """
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        for pattern, change in CHANGES.items():
            if matches(pattern, ".".join(parts[:length])):
                return change
    raise KeyError(path)


def matches(pattern: str, path: str) -> bool:
    """Whether a dotted path is what a pattern with `*` describes."""
    expression = re.escape(pattern).replace(r"\*", r"[^.]+")
    return re.fullmatch(expression, path) is not None


def check_numbers(stored: Mapping[str, Any]) -> None:
    """Raises `ConfigError` on the first number that is out of bounds.

    Args:
      stored: a configuration as `files.to_json` gives it.
    """
    for path, value in leaves(stored):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for pattern, bound in BOUNDS.items():
            if matches(pattern, path) and not bound.admits(value):
                raise errors.ConfigError(f"{path} = {value}; it must be {bound}.")


def check_shape(model: Mapping[str, Any]) -> None:
    """Raises `ConfigError` if parts of the model do not fit each other.

    Args:
      model: a `ModelConfig` as `files.to_json` gives it.
    """
    heads, kv_heads = model["num_heads"], model["num_kv_heads"]
    if heads % kv_heads:
        raise errors.ConfigError(
            f"model.num_heads = {heads} must be a multiple of model.num_kv_heads = "
            f"{kv_heads}: query heads share the key-value heads evenly."
        )
    if model["head_dim"] % 2:
        raise errors.ConfigError(
            f"model.head_dim = {model['head_dim']} must be even: rotary positions turn "
            "pairs of it."
        )


def check_override(settings: config.RunConfig, text: str) -> None:
    """Raises `ConfigError` if an override sets a single field that nothing reads.

    A file may hand one `RolloutConfig` to all stages and the evaluation, and overrides of
    `stages.*` one value to all stages. Who names a single field means it.

    Args:
      settings: the run with the override.
      text: `field.path=value`.
    """
    path = text.partition("=")[0].strip()
    match path.split("."):
        case ["evaluation", "rollout", "tasks_per_iteration" | "group_size"]:
            because = "evaluations play evaluation.tasks and evaluation.samples"
        case ["stages", name, "rollout", field] if field != "max_tokens":
            supervised = [
                key
                for index, stage in enumerate(settings.stages)
                if stage.supervised
                for key in (stage.name, str(index))
            ]
            if name not in supervised:
                return
            because = f"stage '{name}' learns from demonstrations and plays no episodes"
        case ["tokenizer", "vocab_size"] if settings.start_from:
            because = f"the tokenizer is that of {settings.start_from}"
        case _:
            return
    raise errors.ConfigError(f"--set={text} has no effect: {because}. Leave it out.")


def check_evaluation(settings: config.RunConfig, *, num_devices: int) -> None:
    """Raises `ConfigError` if evaluations do not fit the model or the devices."""
    rollouts = {"rollout": settings.evaluation.rollout} | {
        f"rollouts.{env}": rollout
        for env, rollout in settings.evaluation.rollouts.items()
    }
    for name, rollout in rollouts.items():
        where = f"evaluation.{name}"
        if rollout.max_tokens > settings.model.max_positions:
            raise errors.ConfigError(
                f"{where}.max_tokens = {rollout.max_tokens} exceeds model.max_positions "
                f"= {settings.model.max_positions}; an episode must fit into it."
            )
        shards = num_devices // settings.mesh.model
        rows = rollout.num_slots // rollout.num_cohorts
        if any(n % shards for n in (rows, *rollout.row_buckets)):
            raise errors.ConfigError(
                f"{where}.num_slots / num_cohorts = {rows} and {where}.row_buckets = "
                f"{rollout.row_buckets} must be multiples of the {shards} data-parallel "
                "devices."
            )


def check_extra_groups(settings: config.RunConfig, *, num_hosts: int) -> None:
    """Raises `ConfigError` if hosts cannot share the groups of partial rollouts.

    Each host decides by itself when enough of its groups are complete.
    """
    for index, stage in enumerate(settings.stages):
        shared = (stage.rollout.tasks_per_iteration, stage.extra_groups)
        if stage.extra_groups and any(groups % num_hosts for groups in shared):
            raise errors.ConfigError(
                f"stages[{index}].extra_groups = {stage.extra_groups} and "
                f"rollout.tasks_per_iteration = {shared[0]} must be multiples of the "
                f"{num_hosts} hosts: each plays whole groups."
            )


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything that is no mapping and no list."""
    if isinstance(tree, Mapping):
        members = list(tree.items())
    elif isinstance(tree, list | tuple):
        members = list(enumerate(tree))
    else:
        yield path, tree
        return
    for key, child in members:
        yield from leaves(child, f"{path}.{key}" if path else str(key))
