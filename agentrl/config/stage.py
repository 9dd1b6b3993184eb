"""Configuration of a stage: what it plays, and how it learns from that."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal

from agentrl import errors
from agentrl.config import algorithm_configs, checks

_MAX_STAGE_NAME = 100  # characters; file names hold 255, with more than the stage

Files = str | tuple[str, ...]  # the path of a file, or of several that are read as one


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How trajectories are collected in one iteration."""

    tasks_per_iteration: int = 8  # distinct tasks (P)
    group_size: int = 8  # episodes of each task (G)
    max_tokens: int = 1024  # whole episode: observations and actions
    max_action_tokens: int = 64  # one action, stop token included (N)
    # Of these, for a thought: one that is longer is ended with </think>, which is not
    # trained. 0 sets no limit.
    max_thinking_tokens: int = 0
    temperature: float = 1.0  # 0, greedy, is for evaluation only
    top_k: int = 0  # evaluation only; 0 draws from all tokens
    top_p: float = 1.0  # evaluation only
    # What becomes of an action that max_action_tokens cuts: the episode ends, or the
    # action is closed with the stop token, which is not trained, and played.
    cut_actions: Literal["end", "play"] = "end"
    num_slots: int = 64  # live episodes; rows of the KV cache
    num_cohorts: int = 1  # slots that turn together; 2 hides slow environments
    # Widths of appended observations (C). On CPUs turns need only the largest; prefixes
    # that episodes share are prefilled with all.
    append_buckets: tuple[int, ...] = (64, 256)
    cache_buckets: tuple[int, ...] = (1024,)  # allocated cache columns (S)
    # Narrower cohorts for the last live episodes; small models on CPUs do without.
    row_buckets: tuple[int, ...] = ()

    @property
    def num_episodes(self) -> int:
        """Episodes of one iteration, P x G."""
        return self.tasks_per_iteration * self.group_size

    def validate(self, where: str, *, training: bool) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        for field in (
            "tasks_per_iteration",
            "group_size",
            "max_tokens",
            "num_slots",
            "max_action_tokens",
            "num_cohorts",
        ):
            checks.require_positive(f"{where}.{field}", getattr(self, field))
        if not 0 <= self.max_thinking_tokens < self.max_action_tokens:
            raise errors.ConfigError(
                f"{where}.max_thinking_tokens = {self.max_thinking_tokens}; it must be 0, "
                f"or leave room for an action in {where}.max_action_tokens = "
                f"{self.max_action_tokens}."
            )
        if self.cut_actions not in ("end", "play"):
            raise errors.ConfigError(
                f"{where}.cut_actions = {self.cut_actions!r}; give 'end' or 'play'."
            )
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise errors.ConfigError(
                f"{where}: temperature = {self.temperature} and top_k = {self.top_k} must "
                f"not be negative, and top_p = {self.top_p} must lie in (0, 1]."
            )
        if training and (self.temperature == 0 or self.top_k or self.top_p < 1):
            raise errors.ConfigError(
                f"{where}: temperature = {self.temperature}, top_k = {self.top_k}, top_p = "
                f"{self.top_p}. Training samples from the whole policy: the learner's "
                "ratios hold for the probabilities that the policy itself gives. Use "
                "greedy decoding, top_k and top_p in evaluation.rollout."
            )
        if self.temperature == 0:
            checks.refuse_unread(
                where,
                self,
                ("top_k", "top_p"),
                f"{where}.temperature = 0: the likeliest token is taken",
            )
        if self.num_slots % self.num_cohorts:
            raise errors.ConfigError(
                f"{where}.num_slots = {self.num_slots} must be a multiple of "
                f"{where}.num_cohorts = {self.num_cohorts}."
            )
        for field in ("append_buckets", "cache_buckets", "row_buckets"):
            buckets = getattr(self, field)
            if (not buckets and field != "row_buckets") or list(buckets) != sorted(
                set(buckets)
            ):
                raise errors.ConfigError(
                    f"{where}.{field} = {buckets}; give increasing, distinct sizes."
                )
        if self.cache_buckets[-1] < self.max_tokens:
            raise errors.ConfigError(
                f"{where}.cache_buckets ends at {self.cache_buckets[-1]} columns, fewer "
                f"than {where}.max_tokens = {self.max_tokens}; add a larger bucket."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, its schedule and clipping."""

    learning_rate: float = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    final_fraction: float = 0.1  # of learning_rate, where the schedule decays
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        if not self.learning_rate > 0:
            raise errors.ConfigError(
                f"{where}.learning_rate = {self.learning_rate}; it must be positive."
            )
        checks.require_positive(f"{where}.max_grad_norm", self.max_grad_norm)
        if self.schedule == "constant":
            checks.refuse_unread(
                where, self, ("final_fraction",), f"{where}.schedule = 'constant'"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """Which environments a stage draws from, and how often."""

    environments: tuple[tuple[str, float], ...]  # (name, unnormalised weight)
    kind: Literal["fixed", "tempered", "adaptive"] = "fixed"
    temperature: float = 1.0  # tempered: weight ** (1 / temperature)
    tier: Literal["all", "easy", "hard"] = "all"
    tier_file: Files | None = None  # calibrated tiers; None takes the structural ones
    item_file: Files | None = None  # lists of ids; None takes all tasks of the split
    subsets: tuple[
        str, ...
    ] = ()  # such as "textcraft/depth_1"; see `agentrl.envs.tasks`
    split: str = "train"

    @property
    def selection(self) -> dict[str, Any]:
        """Arguments of `tasks.select_tasks` and `tasks.check_selection`."""
        names = ("split", "tier", "tier_file", "item_file", "subsets")
        return {name: getattr(self, name) for name in names}

    @property
    def tempered_weights(self) -> tuple[tuple[str, float], ...]:
        """Environments and weights, raised to 1 / temperature if they are tempered."""
        if self.kind != "tempered":
            return self.environments
        return tuple((env, w ** (1 / self.temperature)) for env, w in self.environments)

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        _check_weights(f"{where}.environments", self.environments)
        if self.kind != "tempered":
            checks.refuse_unread(
                where, self, ("temperature",), f"{where}.kind = {self.kind!r}"
            )
        if self.tier == "all":
            checks.refuse_unread(where, self, ("tier_file",), f"{where}.tier = 'all'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RehearsalConfig:
    """Demonstrations of earlier environments, learned beside the episodes of a stage.

    They enter every iteration with the likelihood loss of a warm start, at the stage's
    sampling temperature, against forgetting.
    """

    environments: tuple[tuple[str, float], ...]  # (name, unnormalised weight)
    coefficient: float = 0.1  # of the likelihood loss, beside the policy's
    demonstrations: int = 256  # tasks of each environment, from the training panel
    episodes_per_iteration: int = 32  # of all environments together
    thoughts: bool = True  # keep the oracle's thoughts in its answers

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work."""
        _check_weights(f"{where}.environments", self.environments)
        for field in ("coefficient", "demonstrations", "episodes_per_iteration"):
            checks.require_positive(f"{where}.{field}", getattr(self, field))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One link of the chain; it starts from where the one before ended."""

    name: str
    algorithm: algorithm_configs.AlgorithmConfig = dataclasses.field(
        default_factory=algorithm_configs.Dapo
    )
    mixture: MixtureConfig
    num_iterations: int
    rollout: RolloutConfig = RolloutConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    rehearsal: RehearsalConfig | None = None
    overlap: bool = False  # play the next episodes during an update, one update old
    # Groups in play beyond those that an iteration trains on. It does not wait for the
    # last of them: unfinished episodes go on in the next one, with its parameters.
    extra_groups: int = 0
    max_staleness: int = 2  # updates since an episode's first turn; with extra_groups
    carry_optimizer: bool = False  # keep moments and step count of the stage before
    max_turns: tuple[tuple[int, int], ...] = ()  # (from this iteration, turn limit)
    evaluate_after: bool = True

    @property
    def supervised(self) -> bool:
        """Whether it learns from demonstrations alone, so that nothing is played."""
        return isinstance(self.algorithm, algorithm_configs.Supervised)

    @property
    def updates_per_iteration(self) -> int:
        """Optimizer updates of one iteration."""
        passes = getattr(self.algorithm, "passes", 1)
        return self.algorithm.updates_per_iteration * passes

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        check_stage_name(self.name)
        checks.require_positive(f"{where}.num_iterations", self.num_iterations)
        self.mixture.validate(f"{where}.mixture")
        self.rollout.validate(f"{where}.rollout", training=True)
        self.algorithm.validate(f"{where}.algorithm")
        self.optimizer.validate(f"{where}.optimizer")
        if self.rehearsal is not None:
            self.rehearsal.validate(f"{where}.rehearsal")
        if isinstance(self.algorithm, algorithm_configs.Supervised):
            self._check_supervised(where, self.algorithm)
        if (
            isinstance(self.algorithm, algorithm_configs.Grouped)
            and self.rollout.group_size < 2
        ):
            raise errors.ConfigError(
                f"{where}.rollout.group_size = {self.rollout.group_size}: "
                f"{self.algorithm.NAME!r} compares the episodes of a task with each other; "
                "give 2 or more."
            )
        self._check_asynchronous(where)
        starts = [first for first, _ in self.max_turns]
        if starts != sorted(set(starts)) or (starts and starts[0] != 0):
            raise errors.ConfigError(
                f"{where}.max_turns starts at iterations {starts}; give increasing ones, "
                "the first of them 0."
            )

    def _check_asynchronous(self, where: str) -> None:
        if self.overlap and self.updates_per_iteration > 1:
            raise errors.ConfigError(
                f"{where}: overlap with {self.updates_per_iteration} updates an iteration "
                "(algorithm.updates_per_iteration x passes) would train on episodes "
                "several updates old; set both to 1, or overlap to False."
            )
        extra, groups = self.extra_groups, self.rollout.tasks_per_iteration
        if not extra:
            checks.refuse_unread(
                where, self, ("max_staleness",), f"{where}.extra_groups = 0"
            )
            return
        if not 0 < extra <= groups:
            raise errors.ConfigError(
                f"{where}.extra_groups = {extra}; give 0, or at most "
                f"{where}.rollout.tasks_per_iteration = {groups}: an iteration has to be "
                "able to train on all groups that would be too old for the next."
            )
        if self.max_staleness < 1 + self.overlap:
            raise errors.ConfigError(
                f"{where}.max_staleness = {self.max_staleness}; with extra_groups "
                f"{'and overlap ' if self.overlap else ''}episodes are at least "
                f"{1 + self.overlap} updates old when they have gone on once."
            )
        if self.updates_per_iteration > 1:
            raise errors.ConfigError(
                f"{where}: extra_groups with {self.updates_per_iteration} updates an "
                "iteration (algorithm.updates_per_iteration x passes) would train on "
                "episodes that many times as old; set both to 1, or extra_groups to 0."
            )
        if getattr(self.algorithm, "max_refills", 0):
            raise errors.ConfigError(
                f"{where}: extra_groups and algorithm.max_refills both decide which groups "
                "an iteration trains on; set one of them to 0."
            )

    def _check_supervised(
        self, where: str, algorithm: algorithm_configs.Supervised
    ) -> None:
        because = "the algorithm 'supervised', which plays no episodes"
        checks.refuse_unread(
            where,
            self,
            ("overlap", "extra_groups", "max_staleness", "rehearsal", "max_turns"),
            because,
        )
        if self.mixture.kind == "adaptive":
            checks.refuse_unread(f"{where}.mixture", self.mixture, ("kind",), because)
        mixed = [name for name, _ in self.mixture.environments]
        for env, _ in algorithm.renamed_copies:
            if env not in mixed:
                raise errors.ConfigError(
                    f"{where}.algorithm.renamed_copies names environment '{env}', of which "
                    f"nothing is demonstrated: the mixture has {mixed}."
                )


def check_stage_name(name: str) -> None:
    """Refuses names of stages that cannot be part of a file's name.

    Letters, digits, ".", "_" and "-" are allowed, a letter or digit first. Episodes of a
    stage are stored as NAME.jsonl, those of its evaluations as evaluation.NAME.ENV.jsonl,
    so a name cannot begin with "evaluation.".

    Raises:
      ConfigError: naming what is wrong, with a name that works.
    """
    suggestion = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip("._-")
    suggestion = re.sub(r"^evaluation\.", "evaluation_", suggestion)[:_MAX_STAGE_NAME]
    if name == suggestion and name:
        return
    raise errors.ConfigError(
        f"stage name {name!r} cannot be part of a file's name: use 1 to "
        f'{_MAX_STAGE_NAME} letters, digits, ".", "_" and "-", a letter or digit first, '
        f'and do not begin with "evaluation."; {suggestion or "stage_1"!r} would do.'
    )


def _check_weights(where: str, weights: Sequence[tuple[str, float]]) -> None:
    if not weights:
        raise errors.ConfigError(f"{where} is empty; name at least one.")
    for env, weight in weights:
        if not weight > 0:
            raise errors.ConfigError(
                f"{where}: weight of environment '{env}' is {weight}; weights must be "
                "positive. Drop the environment instead."
            )
    names = [env for env, _ in weights]
    if len(set(names)) != len(names):
        raise errors.ConfigError(f"{where} names one twice: {names}.")
