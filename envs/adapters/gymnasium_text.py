r"""Gymnasium environments whose observations and actions are text.

A module of your own says which one, and how its tasks are named:

    SPEC = gymnasium_text.make_spec(
        "wordle",
        lambda: gymnasium.make("Wordle-v0"),
        instruction="Guess the word. Answer in the form: Action:\nyour guess",
        num_train=900, num_test=100, max_turns=8,
    )

Item k is `reset(seed=k)`. The environment must be a pure function of that seed: run
`python -m agentrl.envs.checks NAME` to find out. What it makes of an invalid action is its own
affair; it must not raise.
"""  # noqa: E501

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from agentrl.envs import base, parsing


class TextGym(Protocol):
    """What is used of `gymnasium.Env[str, str]`."""

    def reset(self, *, seed: int | None = None) -> tuple[str, Mapping[str, Any]]:
        """Starts an episode; returns observation and info."""
        ...

    def step(self, action: str, /) -> tuple[str, Any, bool, bool, Mapping[str, Any]]:
        """Returns observation, reward, terminated, truncated, info."""
        ...

    def close(self) -> None:
        """Releases what the environment holds."""
        ...


class GymnasiumEnvironment(base.Environment):
    """Base of the classes that `make_spec` makes."""

    make_inner: Callable[[], TextGym]
    instruction_text: str
    num_tasks: int
    parse: Callable[[str], parsing.ParsedAction]
    succeeded: Callable[[float, Mapping[str, Any]], bool]

    def __init__(self, config: base.EnvConfig | None = None):
        super().__init__(config)
        self._inner = self.make_inner()

    @property
    def default_instruction(self) -> str:
        """The rules, as given to `make_spec`."""
        return self.instruction_text

    def close(self) -> None:
        """Closes the wrapped environment."""
        self._inner.close()

    def _start(self, index: int) -> str:
        if index >= self.num_tasks:
            raise base.UnknownItemError(
                f"environment '{self.name}' has {self.num_tasks} tasks, from "
                f"{self.name}_0; there is no task {index}."
            )
        self._score = 0.0
        observation, _ = self._inner.reset(seed=index)
        return self._check_text(observation)

    def _apply(self, text: str) -> base.StepResult:
        parsed = self.parse(text)
        if parsed.error or not parsed.action:
            info = base.StepInfo(
                valid_action=False, parse_error=True, score=self._score
            )
            return base.StepResult(parsed.error or "No action was given.", info=info)
        observation, reward, terminated, truncated, details = self._inner.step(
            parsed.action
        )
        self._score += float(reward)
        info = base.StepInfo(
            success=bool(terminated and self.succeeded(float(reward), details)),
            score=self._score,
            parsed_action=parsed.action,
        )
        return base.StepResult(
            self._check_text(observation),
            float(reward),
            bool(terminated),
            bool(truncated),
            info,
        )

    def _check_text(self, observation: object) -> str:
        if not isinstance(observation, str):
            raise TypeError(
                f"environment '{self.name}' observes {type(observation).__name__}, not "
                "text; wrap it in a gymnasium.ObservationWrapper that describes it."
            )
        return observation


def _pays(reward: float, details: Mapping[str, Any]) -> bool:
    return reward > 0


def make_spec(
    name: str,
    make_inner: Callable[[], TextGym],
    *,
    instruction: str,
    num_train: int,
    num_test: int,
    max_turns: int,
    parse: Callable[[str], parsing.ParsedAction] = parsing.parse_last_action,
    succeeded: Callable[[float, Mapping[str, Any]], bool] = _pays,
    is_hard: Callable[[int], bool] = lambda index: False,
) -> base.EnvSpec:
    """Describes a Gymnasium text environment to the rest of the system.

    Args:
      name: of the environment, and the prefix of its item ids.
      make_inner: builds one instance.
      instruction: the rules, with the answer format that `parse` reads.
      num_train: training tasks; together with the test tasks they are seeds from 0 on.
      num_test: test tasks, chosen by a hash of the id.
      max_turns: the turn limit, in both profiles.
      parse: takes the action out of an answer.
      succeeded: whether an episode that terminated was solved, from its last reward
        and info; by default, whether that reward is positive.
      is_hard: the structural difficulty of task k; by default all are easy.
    """
    attributes = {
        "name": name,
        "turn_limits": {"strict": max_turns, "agentgym": max_turns},
        "make_inner": staticmethod(make_inner),
        "instruction_text": instruction,
        "num_tasks": num_train + num_test,
        "parse": staticmethod(parse),
        "succeeded": staticmethod(succeeded),
        "__doc__": f"The Gymnasium environment '{name}'.",
    }

    @functools.cache
    def split_ids(split: str) -> tuple[str, ...]:
        ids = [f"{name}_{index}" for index in range(num_train + num_test)]
        test = set(sorted(ids, key=lambda i: base.stable_hash("split", i))[:num_test])
        return tuple(i for i in ids if (i in test) == (split == "test"))

    return base.EnvSpec(
        name=name,
        make=type(f"Gymnasium_{name}", (GymnasiumEnvironment,), attributes),
        splits=("train", "test"),
        panel=lambda split, _: base.TaskPanel(
            name, split, f"{name}-1", split_ids(split)
        ),
        tier=lambda item_id, _: (
            "hard" if is_hard(base.parse_item_id(name, item_id)) else "easy"
        ),
        subset=lambda item_id, config: "all",
        subsets=lambda config: ("all",),
        oracles={},
    )
