"""The contract between text environments and whoever plays them.

An environment is a pure function of (item id, config): two instances with one config,
reset with one id and given the same actions, return the same text, byte for byte, in any
process, under any `PYTHONHASHSEED`, directory order or thread count. A GRPO group is
therefore G instances reset with one id; no environment state is ever copied.

`Environment` does what all environments share: id checks, call order, the turn limit,
cleaning hostile text and the list of available actions. A new environment fills in
`_start` and `_apply` and declares an `EnvSpec`; `docs/howto_env.md` shows a whole one.
"""

import abc
import dataclasses
import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, Protocol

from agentrl.envs import parsing, perturbations, prompts

Profile = parsing.Profile
ListActions = Literal["native", "always", "first", "never"]
Tier = Literal["easy", "hard"]
OracleKind = Literal["privileged", "observational"]

PROFILES: tuple[Profile, ...] = ("strict", "agentgym")
LIST_ACTIONS: tuple[ListActions, ...] = ("native", "always", "first", "never")
# Of a whole answer, which is longer than any context that models have; what lies beyond
# is cut before parsing. An action is cut at `parsing.MAX_PARSED_CHARS`.
MAX_ACTION_CHARS = 10_000_000


class EnvConfigError(ValueError):
    """An environment was configured with a field or value that cannot work."""


class UnknownItemError(ValueError):
    """An item id does not name a task of this environment."""


class CallOrderError(RuntimeError):
    """`step` was called before `reset`, or after the episode had ended."""


class InvalidResultError(TypeError):
    """An environment returned a value that its contract does not allow."""


class MissingDataError(RuntimeError):
    """Files or programs the environment needs are absent; the message says which."""


class OracleRefusalError(ValueError):
    """An oracle does not know how to go about a task."""


@dataclasses.dataclass(frozen=True)
class EnvConfig:
    """How an environment behaves; picklable, hashable in its printed form.

    `strict` closes the known holes of the upstream environments; `agentgym` keeps
    upstream's wording, retry rules and turn limits. `list_actions` says when the available
    actions are part of the observation, where the environment can enumerate them.
    """

    profile: Profile = "strict"
    list_actions: ListActions = "native"
    max_turns: int | None = None  # None takes the environment's limit for the profile
    options: Mapping[str, str | int | float | bool] = dataclasses.field(
        default_factory=dict
    )

    def validate(self, env: str, known_options: Sequence[str] = ()) -> None:
        """Raises `EnvConfigError` on the first field that cannot work."""
        for field, value, choices in (
            ("profile", self.profile, PROFILES),
            ("list_actions", self.list_actions, LIST_ACTIONS),
        ):
            if value not in choices:
                raise EnvConfigError(
                    f"environment '{env}': {field} = {value!r}; choose one of {choices}."
                )
        turns = self.max_turns
        if turns is not None and (type(turns) is not int or turns < 1):
            raise EnvConfigError(
                f"environment '{env}': max_turns = {turns!r}; it must be None, or a whole "
                "number of at least 1."
            )
        if not isinstance(self.options, Mapping):
            raise EnvConfigError(
                f"environment '{env}': options = {self.options!r}; give a mapping from "
                "names to values, {} for none."
            )
        known = (*known_options, *prompts.OPTIONS, *perturbations.OPTIONS)
        for key in self.options:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=3)
                hint = f" Did you mean {close}?" if close else ""
                raise EnvConfigError(
                    f"environment '{env}' has no option {key!r};{hint} "
                    f"it knows {sorted(known)}."
                )


@dataclasses.dataclass(frozen=True)
class RandomPolicy:
    """Asks for random actions in place of an oracle's; see `agentrl.envs.random_policy`."""

    sample: int  # episodes of a task with other numbers draw other actions


Advisor = OracleKind | RandomPolicy  # whose answers a reply of the pool suggests


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """What happened, for metrics and failure analysis; the policy never sees it."""

    success: bool = False  # the task is solved
    score: float = 0.0  # upstream's own definition of the episode's result so far
    valid_action: bool = True  # the action was understood and allowed
    parse_error: bool = False  # the text did not follow the answer format
    parsed_action: str = ""  # the action as the environment understood it
    progress: float = 0.0  # share of known sub-goals reached, in [0, 1]; never a reward


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What one action led to."""

    observation: str  # shown to the agent before its next action
    reward: float = 0.0  # for this action alone, not cumulative
    terminated: bool = False  # the task itself ended: solved or failed
    truncated: bool = False  # a limit ended it; the state was not terminal
    info: StepInfo = StepInfo()

    @property
    def done(self) -> bool:
        """Whether the episode has ended, for either reason."""
        return self.terminated or self.truncated


class Oracle(Protocol):
    """A scripted policy over text; create one per episode."""

    def act(self, observation: str) -> str:
        """Returns the full answer (`Thought: ... Action: ...`) to `observation`.

        Raises:
          OracleRefusalError: if it does not know how to go about this task, or to go on.
        """
        ...


class Environment(abc.ABC):
    """A multi-turn text task, played by one agent, inside one process."""

    name: ClassVar[str]
    turn_limits: ClassVar[Mapping[Profile, int]]
    native_list: ClassVar[Literal["always", "first", "never"]] = "never"
    option_names: ClassVar[tuple[str, ...]] = ()
    # Other words for the beginnings of actions, for the option `rename_verbs`.
    synonyms: ClassVar[Mapping[str, str]] = {}
    acknowledgements: ClassVar[Mapping[Profile, str]] = dict.fromkeys(
        PROFILES, prompts.ACKNOWLEDGEMENT
    )

    def __init__(self, config: EnvConfig | None = None):
        self.config = config if config is not None else EnvConfig()
        self.config.validate(self.name, self.option_names)
        self.max_turns = self.config.max_turns or self.turn_limits[self.config.profile]
        self._item_id = ""
        self._turn: int | None = None  # None until reset, and after the episode's end
        try:
            self._given = {
                option: prompts.read_given(self.config.options, option)
                for option in prompts.OPTIONS
            }
            self.perturbation = perturbations.Perturbation.from_options(
                self.config.options, self.synonyms
            )
        except (prompts.PromptError, perturbations.PerturbationError) as error:
            raise EnvConfigError(f"environment '{self.name}': {error}") from error

    # What an environment fills in.

    @property
    def default_instruction(self) -> str:
        """The rules of the environment, shown once before the first observation.

        Option `instruction` replaces them; see `agentrl.envs.prompts`.
        """
        raise NotImplementedError(
            f"environment '{self.name}' has to define default_instruction."
        )

    @abc.abstractmethod
    def _start(self, index: int) -> str:
        """Starts task `index` and returns the first observation, without actions."""

    @abc.abstractmethod
    def _apply(self, text: str) -> StepResult:
        """Applies the agent's answer. Malformed text is scored, never raised on.

        `text` is the answer as `parsing.read_answer` returns it, without thoughts.
        """

    def available_actions(self) -> Sequence[str] | None:
        """Actions that would be accepted now, in a fixed order; None if not enumerable."""
        return None

    def _format_actions(self, actions: Sequence[str]) -> str:
        """The suffix that lists `actions` in an observation."""
        return "\nAVAILABLE ACTIONS: " + ",".join(actions)

    # What all environments share.

    @property
    def instruction(self) -> str:
        """The rules as the user replaced them, or the environment's own."""
        return self.perturbation.instruct(self.plain_instruction)

    @property
    def plain_instruction(self) -> str:
        """The rules before they are perturbed."""
        return self._given["instruction"] or self.default_instruction

    @property
    def acknowledgement(self) -> str:
        """The answer to the rules that the `agentgym` framing shows."""
        given = self._given["acknowledgement"]
        return given or self.acknowledgements[self.config.profile]

    def reset(self, item_id: str) -> str:
        """Starts the task `item_id` and returns the first observation.

        Raises:
          UnknownItemError: if the id is malformed or names no task.
        """
        index = parse_item_id(self.name, item_id)
        self._turn = None
        observation = self._start(index)
        self._item_id, self._turn = item_id, 0
        return self._show(observation)

    def step(self, text: str) -> StepResult:
        """Applies the agent's whole answer and returns what it led to.

        Raises:
          CallOrderError: before `reset`, or after the episode has ended.
          InvalidResultError: if `_apply` returns something else than a result.
        """
        if self._turn is None:
            raise CallOrderError(
                f"environment '{self.name}': step() before reset() or after the end of "
                "the episode; call reset(item_id) first."
            )
        result = self._apply(self.perturbation.read(self._read_answer(text)))
        if not isinstance(result, StepResult):
            raise InvalidResultError(
                f"_apply() returned {result!r:.80} ({type(result).__name__}); it must "
                "return a StepResult."
            )
        self._turn += 1
        if not result.terminated and self._turn >= self.max_turns:
            result = dataclasses.replace(result, truncated=True)
        shown = self._show(result.observation, listed=not result.done)
        if result.done:
            self._turn = None
        if shown is result.observation:
            return result
        return dataclasses.replace(result, observation=shown)

    def _show(self, observation: str, *, listed: bool = True) -> str:
        """What the agent sees of an observation, with the actions that are listed."""
        if not isinstance(observation, str):  # left for the caller to refuse
            return observation
        turn = self._turn or 0
        actions = self._actions_to_list(first=turn == 0) if listed else None
        plain = self._format_actions(actions) if actions is not None else ""
        # For oracles, which read the environment's own words.
        self.plain_observation = observation + plain
        if not self.perturbation.is_active:
            return self.plain_observation
        shown = self.perturbation.observe(observation, self._item_id, turn)
        if actions is None:
            return shown
        return shown + self.format_listed(actions)

    def format_listed(self, actions: Sequence[str]) -> str:
        """The list of actions as observations of this turn end with it."""
        arranged = self.perturbation.arrange(actions, self._item_id, self._turn or 0)
        return self._format_actions(arranged)

    def _read_answer(self, text: str) -> str:
        if not isinstance(text, str):
            raise TypeError(f"an action must be str, not {type(text).__name__}.")
        return parsing.read_answer(text[:MAX_ACTION_CHARS], self.config.profile)

    def close(self) -> None:  # noqa: B027
        """Releases what the instance holds outside the process; most hold nothing."""

    def _actions_to_list(self, *, first: bool) -> Sequence[str] | None:
        """The available actions, None if they are not to be listed."""
        wanted = self.config.list_actions
        if wanted == "native":
            wanted = self.native_list
        if wanted == "never" or (wanted == "first" and not first):
            return None
        return self.available_actions()


@dataclasses.dataclass(frozen=True)
class TaskPanel:
    """A fixed, versioned list of tasks; the digest is printed with every result on it."""

    env: str
    split: str
    version: str
    item_ids: tuple[str, ...]

    @property
    def digest(self) -> str:
        """First 12 hex digits of the SHA-256 over version, split and ids."""
        content = "\n".join((self.version, self.split, *self.item_ids))
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """All that the rest of the system knows about an environment; see `agentrl.envs.registry`."""  # noqa: E501

    name: str
    make: Callable[[EnvConfig], Environment]
    splits: tuple[str, ...]  # always "train" and "test" first
    panel: Callable[[str, EnvConfig], TaskPanel]  # (split, config) -> tasks
    tier: Callable[[str, EnvConfig], Tier]  # (item id, config) -> structural difficulty
    subset: Callable[[str, EnvConfig], str]  # (item id, config) -> level, depth or type
    oracles: Mapping[OracleKind, Callable[[Environment], Oracle]]
    # How actions begin, in lower case ("go to"), or a mark they hold ("<answer>"). Failure
    # tags tell by them the actions of one environment from those of another.
    verbs: tuple[str, ...] = ()
    # The names that `subset` may return, known without building anything; None if only
    # the data tells, as with files of the user's.
    subsets: Callable[[EnvConfig], Sequence[str] | None] = lambda config: None
    # (item id, config) -> `make_fingerprint` of what makes two tasks the same, such as
    # the world and what is to be done in it. No other split's tasks may have the
    # fingerprint of a training task. None: any two ids are different tasks.
    fingerprint: Callable[[str, EnvConfig], str] | None = None


def parse_item_id(env: str, item_id: str) -> int:
    """Returns k of `<env>_<k>`.

    Raises:
      UnknownItemError: for any other text, naming the expected form.
    """
    prefix, _, digits = (
        item_id.rpartition("_") if isinstance(item_id, str) else ("",) * 3
    )
    if prefix != env or not (digits.isascii() and digits.isdigit()) or len(digits) > 9:
        raise UnknownItemError(
            f"item id {str(item_id)[:80]!r} is not a task of environment '{env}'; "
            f"ids look like '{env}_0'."
        )
    return int(digits)


def clean_text(text: str) -> str:
    """Replaces what cannot be encoded or printed; see `parsing.replace_unprintable`."""
    return parsing.replace_unprintable(text)


def make_fingerprint(*parts: object) -> str:
    """First 16 hex digits of the SHA-256 over the printed parts of a task."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def stable_hash(*parts: object) -> int:
    """A 64-bit hash of the printed parts that is the same in every process."""
    content = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")
