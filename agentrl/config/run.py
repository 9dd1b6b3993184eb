"""Configuration of a run and its parts, apart from algorithm_configs.

Fields are grouped from what nearly every run sets to what few need. `RunConfig.validate`
checks what can be known without devices or data; each message names the field.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agentrl import errors
from agentrl.config import algorithm_configs, checks
from agentrl.envs import base, registry
from agentrl.models.model_config import LoraConfig, ModelConfig

_MAX_STAGE_NAME = 100  # characters; file names hold 255, with more than the stage


Files = str | tuple[str, ...]  # the path of a file, or of several that are read as one


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How trajectories are collected in one iteration."""

    tasks_per_iteration: int = 8  # distinct tasks (P)
    group_size: int = 8  # episodes of each task (G)
    max_tokens: int = 1024  # whole episode: observations and actions
    max_action_tokens: int = 64  # one action, stop token included (N)
    temperature: float = 1.0  # 0, greedy, is for evaluation only
    top_k: int = 0  # evaluation only; 0 draws from all tokens
    top_p: float = 1.0  # evaluation only
    # What becomes of an action that max_action_tokens cuts: the episode ends, or the
    # action is closed with the stop token, which is not trained, and played.
    cut_actions: Literal["end", "play"] = "end"
    num_slots: int = 64  # live episodes; rows of the KV cache
    num_cohorts: int = 1  # slots that turn together; 2 hides slow environments
    append_buckets: tuple[int, ...] = (64, 256)  # widths of appended observations (C)
    cache_buckets: tuple[int, ...] = (1024,)  # allocated cache columns (S)
    row_buckets: tuple[int, ...] = ()  # narrower cohorts for the last live episodes

    @property
    def num_episodes(self) -> int:
        """Episodes of one iteration, P x G."""
        return self.tasks_per_iteration * self.group_size

    def validate(self, where: str, *, training: bool) -> None:
        """Raises `ConfigError` on the first field that cannot work."""
        for field in (
            "tasks_per_iteration",
            "group_size",
            "max_tokens",
            "num_slots",
            "max_action_tokens",
            "num_cohorts",
        ):
            checks.require_positive(f"{where}.{field}", getattr(self, field))
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
        """Raises `ConfigError` on the first field that cannot work."""
        if not self.learning_rate > 0:
            raise errors.ConfigError(
                f"{where}.learning_rate = {self.learning_rate}; it must be positive."
            )
        checks.require_positive(f"{where}.max_grad_norm", self.max_grad_norm)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Shapes and memory of one update."""

    row_tokens: int = 1024  # columns of a packed row (T)
    rows_per_microbatch: int = 8  # R, a multiple of the data-parallel devices
    max_microbatches: int = 8  # M; unused ones cost nothing
    logprob_chunk: int = 2048  # tokens whose logits exist at one time
    remat: Literal["none", "full"] = "none"


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

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work."""
        _check_weights(f"{where}.environments", self.environments)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RehearsalConfig:
    """Demonstrations of earlier environments, learned beside the episodes of a stage.

    They enter every iteration with the likelihood loss of a warm start, against
    forgetting.
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
        if self.supervised and (self.overlap or self.rehearsal or self.max_turns):
            raise errors.ConfigError(
                f"{where}: overlap = {self.overlap}, rehearsal = {self.rehearsal}, "
                f"max_turns = {self.max_turns} have no effect with the algorithm "
                "'supervised', which plays no episodes; leave them out."
            )
        if self.overlap and self.updates_per_iteration > 1:
            raise errors.ConfigError(
                f"{where}: overlap with {self.updates_per_iteration} updates an iteration "
                "(algorithm.updates_per_iteration x passes) would train on episodes "
                "several updates old; set both to 1, or overlap to False."
            )
        starts = [first for first, _ in self.max_turns]
        if starts != sorted(set(starts)) or (starts and starts[0] != 0):
            raise errors.ConfigError(
                f"{where}.max_turns starts at iterations {starts}; give increasing ones, "
                "the first of them 0."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Fixed task panels, played after stages and by `launch.evaluate`."""

    environments: tuple[str, ...] = ()  # empty takes all of the run's environments
    split: str = "test"
    tier: Literal["all", "easy", "hard"] = "all"
    tier_file: Files | None = None  # calibrated tiers; None takes the structural ones
    item_file: Files | None = None  # lists of ids; None takes all tasks of the split
    subsets: tuple[
        str, ...
    ] = ()  # such as "textcraft/depth_1"; see `agentrl.envs.tasks`
    tasks: int = 0  # of each panel; 0 takes all
    samples: int = 8  # k of avg@k
    random_policy: bool = True  # play each panel at random, too, to compare with
    max_turns: int | None = None  # of every environment; None leaves it as it trains
    list_actions: base.ListActions | None = None  # likewise
    rollout: RolloutConfig = RolloutConfig()  # its P and G are not used here

    @property
    def selection(self) -> dict[str, Any]:
        """Arguments of `tasks.select_tasks` and `tasks.check_selection`."""
        names = ("split", "tier", "tier_file", "item_file", "subsets")
        chosen = {name: getattr(self, name) for name in names}
        return {**chosen, "limit": self.tasks or None}

    @property
    def env_changes(self) -> dict[str, Any]:
        """Fields of `EnvConfig` that evaluations set to another value than training."""
        given = {"max_turns": self.max_turns, "list_actions": self.list_actions}
        return {name: value for name, value in given.items() if value is not None}

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work."""
        checks.require_positive(f"{where}.samples", self.samples)
        if self.max_turns is not None:
            checks.require_positive(f"{where}.max_turns", self.max_turns)
        if self.list_actions not in (None, *base.LIST_ACTIONS):
            raise errors.ConfigError(
                f"{where}.list_actions = {self.list_actions!r}; give None or one of "
                f"{list(base.LIST_ACTIONS)}."
            )
        self.rollout.validate(f"{where}.rollout", training=False)
        if self.tasks < 0:
            raise errors.ConfigError(
                f"{where}.tasks = {self.tasks}; 0 takes all tasks."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Where the vocabulary comes from."""

    kind: Literal["train_sentencepiece", "sentencepiece", "huggingface", "bytes"] = (
        "train_sentencepiece"
    )
    path: str = ""  # SentencePiece file; Hugging Face folder, GGUF file, model's name
    vocab_size: int = 1024  # for train_sentencepiece
    frame: Literal["bare", "plain", "agentgym"] = "bare"
    few_shot: int = 0  # solved tasks shown before each task, of the same environment


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Device axes of the learner; -1 takes all devices that are left."""

    data: int = -1
    fsdp: int = 1
    model: int = 1
    cpu_devices: int = 1  # of a CPU; small models run fastest with one for each core


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run: one model through a chain of stages."""

    name: str
    stages: tuple[StageConfig, ...]
    environments: Mapping[str, base.EnvConfig]
    model: ModelConfig
    weights: str = ""  # what to start from, as launch.train --model takes it; or random
    start_from: str = ""  # checkpoint of another run to start from; see `run.fork`
    lora: LoraConfig | None = None  # None trains no adapters
    trainable: tuple[str, ...] | None = None  # patterns; see `lora.split`
    seed: int = 0
    tokenizer: TokenizerConfig = TokenizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    learner: LearnerConfig = LearnerConfig()
    mesh: MeshConfig = MeshConfig()
    num_env_workers: int = 2
    env_timeout_s: float = 60.0  # for one reset or step
    env_observation_bytes: int = 1 << 20  # of UTF-8; more ends the episode
    env_worker_memory_mb: int | None = None  # for each worker; None sets no limit
    # Of the episodes of an iteration, of an evaluation's panel, or of the tasks
    # demonstrated, those that environments may lose, by errors or by time; more stop the
    # run.
    max_env_error_fraction: float = 0.1
    save_every: int = 10  # iterations between checkpoints, besides each stage's end
    keep_checkpoints: int = 2
    log_to: tuple[str, ...] = ("tensorboard",)  # see `agentrl.loggers.outlets`

    def validate(self, *, num_devices: int) -> None:
        """Raises `ConfigError` on the first field that cannot work."""
        if not self.stages:
            raise errors.ConfigError("stages is empty; give at least one stage.")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise errors.ConfigError(f"two stages share a name: {names}.")
        for name, env in self.environments.items():
            try:
                registry.get_spec(name).make(env)
            except base.EnvConfigError as error:
                raise errors.ConfigError(f"environments[{name!r}]: {error}") from error
        if self.lora is not None:
            checks.require_positive("lora.rank", self.lora.rank)
            checks.require_positive("lora.alpha", self.lora.alpha)
        for index, stage in enumerate(self.stages):
            stage.validate(f"stage '{stage.name}'")
            self._check_stage(index, stage)
        self.evaluation.validate("evaluation")
        if self.tokenizer.few_shot < 0:
            raise errors.ConfigError(
                f"tokenizer.few_shot = {self.tokenizer.few_shot}; give 0 or more."
            )
        self._check_names("evaluation", self.evaluation.environments)
        self._check_env_limits()
        checks.require_positive("mesh.cpu_devices", self.mesh.cpu_devices)
        self._check_learner(num_devices)
        if self.model.init == "induction" and not self.model.has_room_for_induction:
            raise errors.ConfigError(
                'model.init = "induction" needs two layers, two key-value heads, two query '
                "heads for each, qkv_bias, no qk_norm and untied embeddings."
            )

    def _check_env_limits(self) -> None:
        checks.require_positive("num_env_workers", self.num_env_workers)
        checks.require_positive("env_timeout_s", self.env_timeout_s)
        checks.require_positive("env_observation_bytes", self.env_observation_bytes)
        if self.env_worker_memory_mb is not None:
            checks.require_positive("env_worker_memory_mb", self.env_worker_memory_mb)

    def _check_stage(self, index: int, stage: StageConfig) -> None:
        """What a stage asks of the rest of the run."""
        where = f"stage '{stage.name}'"
        self._check_names(
            f"{where}.mixture", [n for n, _ in stage.mixture.environments]
        )
        if stage.rehearsal is not None:
            named = [name for name, _ in stage.rehearsal.environments]
            self._check_names(f"{where}.rehearsal", named)
        if algorithm_configs.find(stage.algorithm.NAME) is not type(stage.algorithm):
            raise errors.ConfigError(
                f"{where}.algorithm is of the class {type(stage.algorithm).__name__}, but "
                f"{stage.algorithm.NAME!r} names another one: the run could not be read "
                "again. Give the class a NAME of its own and decorate it with "
                "agentrl.config.algorithm_configs.register."
            )
        self._check_carried_optimizer(index, stage)
        if stage.algorithm.LEARNS_VALUES and not self.model.critic:
            raise errors.ConfigError(
                f"{where}: the algorithm {stage.algorithm.NAME!r} learns values, which the "
                "model cannot predict; set model.critic = True."
            )
        if isinstance(stage.algorithm, algorithm_configs.Distillation):
            earlier = [other.name for other in self.stages[:index]]
            taught = dict(stage.algorithm.teachers)
            trained = [name for name, _ in stage.mixture.environments]
            if set(taught) != set(trained) or not set(taught.values()) <= set(earlier):
                raise errors.ConfigError(
                    f"{where}.algorithm.teachers = {stage.algorithm.teachers}: name one "
                    f"teacher for each environment of the mixture, {trained}, out of the "
                    f"stages before, {earlier}."
                )

    def _check_carried_optimizer(self, index: int, stage: StageConfig) -> None:
        if not stage.carry_optimizer:
            return
        where = f"stage '{stage.name}'"
        if index == 0:
            raise errors.ConfigError(
                f"{where}.carry_optimizer = True has no effect in the first stage, which "
                "has no stage before it; set it to False."
            )
        if stage.optimizer.schedule != "constant":
            raise errors.ConfigError(
                f"{where}.optimizer.schedule = {stage.optimizer.schedule!r} with "
                "carry_optimizer = True: the step count goes on from the stage before, so "
                "that the schedule may be at its end, final_fraction = "
                f"{stage.optimizer.final_fraction}, from the first update. Set schedule = "
                "'constant', or carry_optimizer to False."
            )

    def _check_names(self, where: str, names: object) -> None:
        for name in names:  # type: ignore[attr-defined]
            if name not in self.environments:
                raise errors.ConfigError(
                    f"{where} names environment '{name}', which `environments` does not "
                    f"configure; it has {sorted(self.environments)}."
                )

    def _check_learner(self, num_devices: int) -> None:
        model_shards = self.mesh.fsdp * self.mesh.model
        if num_devices % model_shards:
            raise errors.ConfigError(
                f"mesh.fsdp x mesh.model = {model_shards} does not divide the "
                f"{num_devices} devices."
            )
        shards = num_devices // self.mesh.model
        if self.learner.rows_per_microbatch % shards:
            raise errors.ConfigError(
                f"learner.rows_per_microbatch = {self.learner.rows_per_microbatch} must be "
                f"a multiple of the {shards} data-parallel devices (data x fsdp)."
            )
        for stage in self.stages:
            longest = stage.rollout.max_tokens
            for owner, field in (
                (self.learner, "row_tokens"),
                (self.model, "max_positions"),
            ):
                if longest > getattr(owner, field):
                    raise errors.ConfigError(
                        f"stage '{stage.name}': rollout.max_tokens = {longest} exceeds "
                        f"{field} = {getattr(owner, field)}; an episode must fit into it."
                    )
            rows = stage.rollout.num_slots // stage.rollout.num_cohorts
            if any(n % shards for n in (rows, *stage.rollout.row_buckets)):
                raise errors.ConfigError(
                    f"stage '{stage.name}': rollout.num_slots / num_cohorts = {rows} and "
                    f"rollout.row_buckets = {stage.rollout.row_buckets} must be multiples "
                    f"of the {shards} data-parallel devices."
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
