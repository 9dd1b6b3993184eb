"""Configuration of a run and its parts, apart from its stages.

Fields are grouped from what nearly every run sets to what few need. `RunConfig.validate`
checks what can be known without devices or data; each message names the field.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from agentrl import errors
from agentrl.config import algorithm_configs, checks
from agentrl.config.stage import Files, RolloutConfig, StageConfig
from agentrl.envs import base, registry
from agentrl.models.model_config import LoraConfig, ModelConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """Shapes and memory of one update."""

    row_tokens: int = 1024  # columns of a packed row (T)
    rows_per_microbatch: int = 8  # R, a multiple of the data-parallel devices
    max_microbatches: int = 8  # M; unused ones cost nothing
    logprob_chunk: int = 2048  # tokens whose logits exist at one time
    remat: Literal["none", "full"] = "none"


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
    stratify: Literal["", "tier", "subset"] = ""  # equally many `tasks` of each
    samples: int = 8  # k of avg@k
    random_policy: bool = True  # play each panel at random, too, to compare with
    before_training: bool = False  # also before the first stage
    max_turns: int | None = None  # of every environment; None leaves it as it trains
    list_actions: base.ListActions | None = None  # likewise
    # Options of every environment beside its own, such as {"irrelevant_text": 1.0}; see
    # `agentrl.envs.perturbations`.
    env_options: Mapping[str, str | int | float | bool] = dataclasses.field(
        default_factory=dict
    )
    # Its P and G are not used here.
    rollout: RolloutConfig = dataclasses.field(default_factory=RolloutConfig)
    # Of environments that need other room than `rollout` gives: tokens, buckets, slots.
    rollouts: Mapping[str, RolloutConfig] = dataclasses.field(default_factory=dict)

    @property
    def selection(self) -> dict[str, Any]:
        """Arguments of `tasks.select_tasks` and `tasks.check_selection`."""
        names = ("split", "tier", "tier_file", "item_file", "subsets")
        chosen = {name: getattr(self, name) for name in names}
        return {**chosen, "limit": self.tasks or None, "stratify": self.stratify}

    @property
    def env_changes(self) -> dict[str, Any]:
        """Fields of `EnvConfig` that evaluations set to another value than training."""
        given = {"max_turns": self.max_turns, "list_actions": self.list_actions}
        return {name: value for name, value in given.items() if value is not None}

    def change_env(self, env_config: base.EnvConfig) -> base.EnvConfig:
        """The configuration that an environment has in evaluations."""
        options = {**env_config.options, **self.env_options}
        return dataclasses.replace(env_config, options=options, **self.env_changes)

    def rollout_of(self, env: str) -> RolloutConfig:
        """How the episodes of an environment are collected."""
        return self.rollouts.get(env, self.rollout)

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
        for env, rollout in self.rollouts.items():
            rollout.validate(f"{where}.rollouts.{env}", training=False)
        if self.stratify not in ("", "tier", "subset") or (
            self.stratify and not self.tasks
        ):
            raise errors.ConfigError(
                f"{where}.stratify = {self.stratify!r} with {where}.tasks = {self.tasks}; "
                "give 'tier' or 'subset' with a number of tasks, or leave it out."
            )
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
    # Of models that think: variables of the chat template, such as enable_thinking of
    # Qwen3's, and whether contexts keep what past answers thought.
    template_variables: Mapping[str, bool | int | float | str] = dataclasses.field(
        default_factory=dict
    )
    past_reasoning: Literal["keep", "drop"] = "keep"

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        if self.few_shot < 0:
            raise errors.ConfigError(
                f"{where}.few_shot = {self.few_shot}; give 0 or more."
            )
        trained = self.kind == "train_sentencepiece"
        unread = () if trained else ("vocab_size",)
        if self.kind in ("train_sentencepiece", "bytes"):
            unread += ("path",)
        checks.refuse_unread(where, self, unread, f"{where}.kind = {self.kind!r}")
        if self.past_reasoning not in ("keep", "drop"):
            raise errors.ConfigError(
                f"{where}.past_reasoning = {self.past_reasoning!r}; give 'keep' or 'drop'."
            )
        if self.kind != "huggingface" or self.frame == "bare":
            checks.refuse_unread(
                where,
                self,
                ("template_variables", "past_reasoning"),
                f"{where}.kind = {self.kind!r} and frame = {self.frame!r}, which have no "
                "chat template of a published model,",
            )


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
    token_episodes: int = 16  # of each iteration and evaluation, stored token by token
    token_hindsight: bool = False  # with their ratios and entropies after the update
    log_to: tuple[str, ...] = ("tensorboard",)  # see `agentrl.loggers.outlets`

    def validate(self, *, num_devices: int) -> None:
        """Raises `ConfigError` on the first field that cannot work."""
        if not self.stages:
            raise errors.ConfigError("stages is empty; give at least one stage.")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise errors.ConfigError(f"two stages share a name: {names}.")
        for name, env in self.environments.items():
            _try_environment(f"environments[{name!r}]", name, env)
            evaluated = self.evaluation.environments or self.environments
            if self.evaluation.env_options and name in evaluated:
                changed = self.evaluation.change_env(env)
                _try_environment("evaluation.env_options", name, changed)
        for index, stage in enumerate(self.stages):
            stage.validate(f"stage '{stage.name}'")
            self._check_stage(index, stage)
        self.evaluation.validate("evaluation")
        self.tokenizer.validate("tokenizer")
        if self.evaluation.before_training and "untrained" in names:
            raise errors.ConfigError(
                "a stage is called 'untrained', as the evaluation before the first stage "
                "is (evaluation.before_training = True); call it otherwise."
            )
        self._check_names("evaluation", self.evaluation.environments)
        self._check_names("evaluation.rollouts", self.evaluation.rollouts)
        self._check_env_limits()
        checks.require_positive("mesh.cpu_devices", self.mesh.cpu_devices)
        self._check_learner(num_devices)
        self._check_model()

    def _check_model(self) -> None:
        """Where the parameters come from, and which of them are trained."""
        if self.start_from:
            because = f"start_from = {self.start_from!r}"
            checks.refuse_unread("", self, ("weights",), because)
        if given := self.start_from or self.weights:
            checks.refuse_unread(
                "model", self.model, ("init",), f"parameters that are read from {given}"
            )
        if self.model.init == "induction" and not self.model.has_room_for_induction:
            raise errors.ConfigError(
                'model.init = "induction" needs two layers, two key-value heads, two query '
                "heads for each, qkv_bias, no qk_norm and untied embeddings."
            )
        scaling = self.model.rope_scaling
        if scaling is not None and scaling.kind == "linear":
            checks.refuse_unread(
                "model.rope_scaling",
                scaling,
                ("low_frequency_factor", "high_frequency_factor", "original_context"),
                "model.rope_scaling.kind = 'linear'",
            )
        if self.lora is not None:
            checks.require_positive("lora.rank", self.lora.rank)
            checks.require_positive("lora.alpha", self.lora.alpha)
        elif self.trainable == ():
            raise errors.ConfigError(
                "trainable = () without lora trains nothing; give patterns of parameters, "
                "or None for all."
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
        if stage.optimizer.warmup_steps:
            raise errors.ConfigError(
                f"{where}.optimizer.warmup_steps = {stage.optimizer.warmup_steps} with "
                "carry_optimizer = True: the step count goes on from the stage before, so "
                "that the warm-up may be over before the first update. Set warmup_steps = "
                "0, or carry_optimizer to False."
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


def _try_environment(where: str, name: str, env_config: base.EnvConfig) -> None:
    try:
        registry.get_spec(name).make(env_config)
    except base.EnvConfigError as error:
        raise errors.ConfigError(f"{where}: {error}") from error
