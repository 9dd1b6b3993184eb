"""Configuration of a run: frozen dataclasses, checked before any device is touched.

Fields are grouped from what nearly every run sets to what few need. `RunConfig.validate`
checks what can be known without devices or data; each message names the field.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from agentrl import errors
from agentrl.envs import base, registry
from agentrl.models.config import LoraConfig, ModelConfig

EndingPolicy = Literal["keep", "mask", "penalize"]


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
            _require_positive(f"{where}.{field}", getattr(self, field))
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
class AlgorithmConfig:
    """The policy-gradient objective; `agentrl.algorithms` says what each name means.

    None takes what the authors of the named algorithm published.
    """

    name: str = "dapo"
    clip_low: float | None = None
    clip_high: float | None = None  # larger than clip_low: DAPO's clip-higher
    divide_by_std: bool | None = None  # advantages in units of the group's spread
    aggregation: Literal["token", "sequence", "constant"] | None = None
    kl_coefficient: float = 0.0  # 0 keeps no reference model in memory
    kl_in: Literal["loss", "reward"] = "loss"
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    keep_zero_variance: bool = False  # True counts groups without signal in the mean
    max_refills: int = 0  # rounds of further tasks for groups without signal (DAPO)
    updates_per_iteration: int = 1  # minibatches an iteration is split into
    dual_clip: float | None = None  # cap of the ratio for negative advantages
    importance_cap: float | None = None  # truncated importance sampling
    discount: float | None = None  # per turn in gigpo, per token or turn in ppo
    step_weight: float = 1.0  # of gigpo's credit for steps, beside that for episodes
    gae_level: Literal["token", "turn"] = "token"  # a step of time, in ppo
    gae_decay: float = 0.95  # lambda
    value_coefficient: float = 0.5  # of the critic's loss
    value_clip: float = 0.2  # in units of return, how far a value may move at one time
    on_max_turns: EndingPolicy = "keep"
    on_max_tokens: EndingPolicy = "keep"
    on_env_timeout: EndingPolicy = "mask"
    penalty: float = 0.0  # subtracted from the return where the policy is "penalize"
    max_first_gap: float = 1e-2  # nats; mean |sampler - learner| at the first update

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work."""
        if self.clip_low is not None and not 0 < self.clip_low <= 1:
            raise errors.ConfigError(
                f"{where}.clip_low = {self.clip_low} must lie in (0, 1]; 1 sets no lower "
                "bound."
            )
        for field in ("clip_high", "importance_cap", "value_clip"):
            if getattr(self, field) is not None:
                _require_positive(f"{where}.{field}", getattr(self, field))
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise errors.ConfigError(
                f"{where}.dual_clip = {self.dual_clip} must be above 1, or None."
            )
        for field in ("discount", "gae_decay"):
            if not 0 <= (getattr(self, field) or 0) <= 1:
                raise errors.ConfigError(
                    f"{where}.{field} = {getattr(self, field)} must lie in [0, 1]."
                )
        if self.max_refills < 0:
            raise errors.ConfigError(
                f"{where}.max_refills = {self.max_refills}; give 0 or more rounds."
            )
        if self.kl_coefficient < 0:
            raise errors.ConfigError(
                f"{where}.kl_coefficient = {self.kl_coefficient} rewards distance from the "
                "reference; give 0 or more."
            )
        _require_positive(f"{where}.updates_per_iteration", self.updates_per_iteration)


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
        _require_positive(f"{where}.max_grad_norm", self.max_grad_norm)


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
    tier_file: str | None = None  # calibrated tiers; None takes the structural ones
    subsets: tuple[
        str, ...
    ] = ()  # such as "textcraft/depth_1"; see `agentrl.envs.tasks`
    split: str = "train"

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work."""
        if not self.environments:
            raise errors.ConfigError(
                f"{where}.environments is empty; name at least one."
            )
        for env, weight in self.environments:
            if not weight > 0:
                raise errors.ConfigError(
                    f"{where}: weight of environment '{env}' is {weight}; weights must be "
                    "positive. Drop the environment instead."
                )
        names = [env for env, _ in self.environments]
        if len(set(names)) != len(names):
            raise errors.ConfigError(f"{where}.environments names one twice: {names}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """Supervised stage on oracle demonstrations."""

    demonstrations: int = 256  # tasks of each environment, from the training panel
    episodes_per_step: int = 32  # of all environments, as the mixture weighs them
    thoughts: bool = True  # keep the oracle's thoughts in its answers
    # (environment, copies of each demonstration with other names), for small models that
    # would rather memorise names than copy them; see `agentrl.envs.demonstrations.rename`.
    renamed_copies: tuple[tuple[str, int], ...] = ()
    conversations: str = ""  # file to learn from in the oracle's place


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One link of the chain; it starts from where the one before ended."""

    name: str
    kind: Literal["rl", "warm_start"] = "rl"
    mixture: MixtureConfig
    num_iterations: int
    rollout: RolloutConfig = RolloutConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    overlap: bool = False  # play the next episodes during an update, one update old
    carry_optimizer: bool = False  # keep moments and step count of the stage before
    max_turns: tuple[tuple[int, int], ...] = ()  # (from this iteration, turn limit)
    evaluate_after: bool = True

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work."""
        _require_positive(f"{where}.num_iterations", self.num_iterations)
        self.mixture.validate(f"{where}.mixture")
        self.rollout.validate(f"{where}.rollout", training=True)
        self.algorithm.validate(f"{where}.algorithm")
        self.optimizer.validate(f"{where}.optimizer")
        if self.overlap and self.algorithm.updates_per_iteration > 1:
            raise errors.ConfigError(
                f"{where}: overlap with algorithm.updates_per_iteration = "
                f"{self.algorithm.updates_per_iteration} would train on episodes several "
                "updates old; set it to 1, or overlap to False."
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
    tier_file: str | None = None  # calibrated tiers; None takes the structural ones
    subsets: tuple[
        str, ...
    ] = ()  # such as "textcraft/depth_1"; see `agentrl.envs.tasks`
    tasks: int = 0  # of each panel; 0 takes all
    samples: int = 8  # k of avg@k
    rollout: RolloutConfig = RolloutConfig()  # its P and G are not used here

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work."""
        _require_positive(f"{where}.samples", self.samples)
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
    env_timeout_s: float = 60.0
    # Of the episodes of an iteration or of an evaluation's panel; more stop the run.
    max_env_error_fraction: float = 0.1
    save_every: int = 10  # iterations between checkpoints, besides each stage's end
    keep_checkpoints: int = 2

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
            _require_positive("lora.rank", self.lora.rank)
            _require_positive("lora.alpha", self.lora.alpha)
        for stage in self.stages:
            stage.validate(f"stage '{stage.name}'")
            self._check_names(
                f"stage '{stage.name}'.mixture",
                [n for n, _ in stage.mixture.environments],
            )
        self.evaluation.validate("evaluation")
        if self.tokenizer.few_shot < 0:
            raise errors.ConfigError(
                f"tokenizer.few_shot = {self.tokenizer.few_shot}; give 0 or more."
            )
        self._check_names("evaluation", self.evaluation.environments)
        _require_positive("mesh.cpu_devices", self.mesh.cpu_devices)
        self._check_learner(num_devices)
        if self.model.init == "induction" and not self.model.has_room_for_induction:
            raise errors.ConfigError(
                'model.init = "induction" needs two layers, two key-value heads, two query '
                "heads for each, qkv_bias, no qk_norm and untied embeddings."
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


def _require_positive(field: str, value: float) -> None:
    if not value > 0:
        raise errors.ConfigError(f"{field} = {value}; it must be positive.")
