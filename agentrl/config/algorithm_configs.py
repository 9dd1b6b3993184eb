"""Objectives of a stage as data: one class per algorithm, with its own fields only.

Defaults are what the authors published. A field that an algorithm does not have is an
error when the configuration is made, and a value without effect is refused by `validate`:
a sweep over a setting that does nothing would give identical curves. What the numbers
mean is said in `agentrl.learner.algorithms`.

Further algorithms register themselves: see docs/howto_algorithm.md.
"""

import dataclasses
import difflib
import importlib
import inspect
import os
from typing import ClassVar, Literal, TypeVar

from agentrl import errors
from agentrl.config import checks

EndingPolicy = Literal["keep", "mask", "penalize"]
Aggregation = Literal["token", "sequence", "constant"]
Scale = Literal["std", "sample_std", "none"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLConfig:
    """Divergence from a reference model: penalised, or only measured.

    A coefficient of 0 measures it, at the price of one more forward pass and of a second
    copy of the trained parameters.
    """

    coefficient: float = 0.0
    placement: Literal["loss", "reward"] = "loss"
    estimator: Literal["k1", "k2", "k3"] = "k3"  # see `agentrl.ops.kl`
    # Parameters at the start of the stage, or those that the run started from.
    reference: Literal["stage_start", "run_start"] = "stage_start"

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work."""
        if self.coefficient < 0:
            raise errors.ConfigError(
                f"{where}.coefficient = {self.coefficient} rewards distance from the "
                "reference; give 0 or more."
            )
        if self.placement == "reward" and not self.coefficient:
            raise errors.ConfigError(
                f"{where}.placement = 'reward' has no effect with {where}.coefficient = "
                "0; give a coefficient, or measure the divergence with placement = 'loss'."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """What every objective has."""

    NAME: ClassVar[str] = ""  # of concrete algorithms, as files and `--set` spell it

    LEARNS_VALUES: ClassVar[bool] = False  # with a critic, which the model must have

    updates_per_iteration: int = 1  # minibatches that an iteration's data is split into

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        checks.require_positive(
            f"{where}.updates_per_iteration", self.updates_per_iteration
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Supervised(AlgorithmConfig):
    """Likelihood of demonstrations: a warm start."""

    NAME: ClassVar[str] = "supervised"

    demonstrations: int = 256  # tasks of each environment, from the training panel
    episodes_per_step: int = 32  # of all environments, as the mixture weighs them
    thoughts: bool = True  # keep the oracle's thoughts in its answers
    # (environment, copies of each demonstration with other names), for small models that
    # would rather memorise names than copy them; see `agentrl.envs.demonstrations.rename`.
    renamed_copies: tuple[tuple[str, int], ...] = ()
    # Of the names that copies rename: words in small letters, or any of letters and digits.
    renamed_spellings: Literal["lower", "all"] = "lower"
    # File, or data set on the Hub, to learn from in the oracle's place; see
    # `agentrl.supervised.datasets`.
    conversations: str = ""

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        super().validate(where)
        for field in ("demonstrations", "episodes_per_step"):
            checks.require_positive(f"{where}.{field}", getattr(self, field))
        if self.conversations:
            checks.refuse_unread(
                where,
                self,
                ("demonstrations", "thoughts", "renamed_copies"),
                f"{where}.conversations = {self.conversations!r}: all stored "
                "conversations are taken as written",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyGradient(AlgorithmConfig):
    """Fields that all algorithms share which learn from the policy's own episodes."""

    clip_low: float = 0.2  # how far the importance ratio may fall below 1
    clip_high: float = (
        0.2  # how far it may rise above 1; more than clip_low: clip-higher
    )
    aggregation: Aggregation = "token"  # what the loss is averaged over
    passes: int = 1  # over an iteration's episodes, each in another order
    entropy_coefficient: float = 0.0  # bonus for the policy's entropy, per nat
    kl: KLConfig | None = None  # None keeps no reference model
    on_max_turns: EndingPolicy = "keep"
    on_max_tokens: EndingPolicy = "keep"
    on_env_timeout: EndingPolicy = "mask"
    penalty: float = 0.0  # subtracted from the return where the policy is "penalize"
    # Nats: mean |sampler - learner| log-probability before the first update. None takes
    # 0.01 where all is computed in float32, and 0.05 with bfloat16 or rounded kernels.
    max_logprob_mismatch: float | None = None

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        super().validate(where)
        checks.require_positive(f"{where}.passes", self.passes)
        if not 0 < self.clip_low <= 1:
            raise errors.ConfigError(
                f"{where}.clip_low = {self.clip_low} must lie in (0, 1]: a ratio is never "
                "below 0."
            )
        checks.require_positive(f"{where}.clip_high", self.clip_high)
        if self.entropy_coefficient < 0:
            raise errors.ConfigError(
                f"{where}.entropy_coefficient = {self.entropy_coefficient} punishes "
                "entropy; give 0 or more."
            )
        if self.kl is not None:
            self.kl.validate(f"{where}.kl")
        endings = (self.on_max_turns, self.on_max_tokens, self.on_env_timeout)
        if ("penalize" in endings) != (self.penalty != 0):
            raise errors.ConfigError(
                f"{where}.penalty = {self.penalty} with on_max_turns, on_max_tokens, "
                f"on_env_timeout = {endings}: a penalty needs an ending that is "
                "'penalize', and the other way round."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipped(PolicyGradient):
    """Fields of PPO's clipped surrogate."""

    dual_clip: float | None = None  # cap of the ratio for negative advantages
    importance_cap: float | None = None  # truncated importance sampling

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        super().validate(where)
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise errors.ConfigError(
                f"{where}.dual_clip = {self.dual_clip} must be above 1, or None."
            )
        if self.importance_cap is not None:
            checks.require_positive(f"{where}.importance_cap", self.importance_cap)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grouped(PolicyGradient):
    """Fields of algorithms that compare the episodes of one task with each other."""

    advantage_scale: Scale = "std"  # spread of a group's returns that advantages are in
    normalize_per_environment: bool = False  # to unit root mean square, after scaling
    keep_zero_variance: bool = False  # True counts groups without signal in the mean
    max_refills: int = 0  # rounds of further tasks for groups without signal (DAPO)
    # A control for studies: rewards are dealt out at random within each group, or within
    # the iteration. Nothing can be learned from the first.
    shuffle_returns: Literal["", "group", "iteration"] = ""

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        super().validate(where)
        if self.max_refills < 0:
            raise errors.ConfigError(
                f"{where}.max_refills = {self.max_refills}; give 0 or more rounds."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grpo(Clipped, Grouped):
    """GRPO: https://arxiv.org/abs/2402.03300."""

    NAME: ClassVar[str] = "grpo"

    aggregation: Aggregation = "sequence"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrGrpo(Clipped, Grouped):
    """Dr. GRPO, without bias by spread or by length: https://arxiv.org/abs/2503.20783."""

    NAME: ClassVar[str] = "dr_grpo"

    advantage_scale: Scale = "none"
    aggregation: Aggregation = "constant"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dapo(Clipped, Grouped):
    """DAPO: https://arxiv.org/abs/2503.14476.

    Its dynamic sampling: groups without signal are left out, and `max_refills` plays
    others in their place.
    """

    NAME: ClassVar[str] = "dapo"

    clip_high: float = 0.28


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rloo(Clipped, Grouped):
    """RLOO, which takes a whole sequence as one action: https://arxiv.org/abs/2402.14740.

    Its clipping matters only from the second update on the same episodes.
    """

    NAME: ClassVar[str] = "rloo"

    advantage_scale: Scale = "none"
    aggregation: Aggregation = "constant"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gspo(Clipped, Grouped):
    """GSPO: https://arxiv.org/abs/2507.18071; bounds of its section 5.1."""

    NAME: ClassVar[str] = "gspo"

    clip_low: float = 3e-4
    clip_high: float = 4e-4
    aggregation: Aggregation = "sequence"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cispo(Grouped):
    """CISPO: https://arxiv.org/abs/2506.13585, without lower bound.

    Weights up to 5 as in https://arxiv.org/abs/2510.13786.
    """

    NAME: ClassVar[str] = "cispo"

    clip_low: float = 1.0
    clip_high: float = 4.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gigpo(Clipped, Grouped):
    """GiGPO: https://arxiv.org/abs/2505.10978."""

    NAME: ClassVar[str] = "gigpo"

    discount: float = 0.95  # per turn, of the return that a step is judged by
    step_advantage_weight: float = 1.0  # beside the advantage of the episode

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        super().validate(where)
        checks.require_fraction(f"{where}.discount", self.discount)
        checks.require_positive(
            f"{where}.step_advantage_weight", self.step_advantage_weight
        )
        if self.shuffle_returns:
            raise errors.ConfigError(
                f"{where}.shuffle_returns = {self.shuffle_returns!r}: GiGPO judges steps "
                "by the rewards that they really led to: nothing is controlled for; "
                "use this control with 'grpo'."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReinforcePP(Clipped):
    """REINFORCE++: https://arxiv.org/abs/2501.03262."""

    NAME: ClassVar[str] = "reinforce_pp"

    advantage_scale: Scale = "std"  # spread of the whole iteration


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ppo(Clipped):
    """PPO with a critic: https://arxiv.org/abs/1707.06347.

    Advantages are generalised ones, scaled over the iteration as usual.
    """

    NAME: ClassVar[str] = "ppo"
    LEARNS_VALUES: ClassVar[bool] = True

    advantage_scale: Scale = "std"
    discount: float = 1.0  # per step of time
    gae_level: Literal["token", "turn"] = "token"  # what a step of time is
    gae_decay: float = 0.95  # lambda
    value_coefficient: float = 0.5  # of the critic's loss
    value_clip: float = 0.2  # in units of return, how far a value may move at one time

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        super().validate(where)
        checks.require_fraction(f"{where}.discount", self.discount)
        checks.require_fraction(f"{where}.gae_decay", self.gae_decay)
        for field in ("value_coefficient", "value_clip"):
            checks.require_positive(f"{where}.{field}", getattr(self, field))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(Clipped):
    """On-policy distillation: teachers judge every token that the policy writes.

    The reverse divergence of https://arxiv.org/abs/2306.13649, section 3, with a
    discount of 0: a token's advantage is log p_teacher - log p_policy. Rewards of the
    environments are measured and not used.
    """

    NAME: ClassVar[str] = "distillation"

    # (environment, name of the earlier stage whose policy teaches it)
    teachers: tuple[tuple[str, str], ...] = ()

    def validate(self, where: str) -> None:
        """Raises `ConfigError` on the first field that cannot work or has no effect."""
        super().validate(where)
        if not self.teachers:
            raise errors.ConfigError(
                f"{where}.teachers is empty; give (environment, earlier stage) pairs."
            )
        if "penalize" in (self.on_max_turns, self.on_max_tokens, self.on_env_timeout):
            raise errors.ConfigError(
                f"{where}.penalty = {self.penalty} has no effect: distillation uses no "
                "rewards."
            )
        if self.kl is not None and self.kl.placement == "reward":
            raise errors.ConfigError(
                f"{where}.kl.placement = 'reward' has no effect: distillation uses no "
                "rewards; place it in the loss."
            )


_C = TypeVar("_C", bound=type[AlgorithmConfig])
_CLASSES: dict[str, type[AlgorithmConfig]] = {}


def register(algorithm: _C) -> _C:
    """Makes a class known by its `NAME`; usable as a decorator.

    Raises:
      ValueError: if the name is missing or taken by another class.
    """
    name = algorithm.NAME
    known = _CLASSES.get(name)
    # A module may be imported twice, also as the script that is run; ours never is.
    is_same = known and known.__qualname__ == algorithm.__qualname__
    if known and known.__module__ == __name__ != algorithm.__module__:
        is_same = False
    if not name or (known and not is_same):
        raise ValueError(
            f"{algorithm.__name__}.NAME = {name!r} is missing or taken; give the class a "
            "NAME of its own."
        )
    _CLASSES[name] = algorithm
    return algorithm


for _built_in in (
    *(Supervised, Grpo, DrGrpo, Dapo, Rloo, Gspo, Cispo, Gigpo),
    *(ReinforcePP, Ppo, Distillation),
):
    register(_built_in)


def names() -> tuple[str, ...]:
    """Names of all algorithms, those of the variable `AGENTRL_ALGORITHMS` among them.

    Raises:
      ConfigError: if the variable names a module that cannot be imported, or that fails
        when it is.
    """
    named = os.environ.get("AGENTRL_ALGORITHMS", "").split(",")
    for module in filter(None, map(str.strip, named)):
        try:
            importlib.import_module(module)  # which registers what it defines
        except ImportError as error:
            raise errors.ConfigError(
                f"AGENTRL_ALGORITHMS names the module {module!r}, which cannot be imported "
                f"({error}); put its folder on PYTHONPATH, or mend the name."
            ) from error
        except Exception as error:  # whatever a person has written into the file
            reason = " ".join(str(error).split())
            raise errors.ConfigError(
                f"AGENTRL_ALGORITHMS names the module {module!r}, which fails when it is "
                f"imported ({type(error).__name__}: {reason}); mend it."
            ) from error
    return tuple(_CLASSES)


def find(name: str) -> type[AlgorithmConfig]:
    """Looks an algorithm's class up.

    Raises:
      ConfigError: if there is none of that name; lists the closest ones.
    """
    if name not in names():
        close = difflib.get_close_matches(name, _CLASSES, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise errors.ConfigError(
            f"algorithm {name!r} is unknown; {hint}There are {', '.join(_CLASSES)}. "
            "Algorithms of your own are found if AGENTRL_ALGORITHMS names their modules."
        )
    return _CLASSES[name]


def describe_fields() -> str:
    """Returns a Markdown table of the fields that each class adds, with defaults."""
    concrete = list(_CLASSES.values())
    classes = {base: None for made in concrete for base in reversed(made.__mro__)}
    lines = ["| name | class | extends | adds or sets |", "| --- | --- | --- | --- |"]
    for made in classes:
        if not issubclass(made, AlgorithmConfig):
            continue
        own = inspect.get_annotations(made)
        fields = [
            f"`{field.name} = {field.default!r}`"
            for field in dataclasses.fields(made)
            if field.name in own
        ]
        name = f"`{made.NAME}`" if made in concrete else ""
        above = [base.__name__ for base in made.__bases__ if base is not object]
        cells = (name, made.__name__, ", ".join(above), ", ".join(fields))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
