"""Whole episodes without a model: scripts of answers, oracles, and what they cost.

The conformance checks, `launch.play` and the benchmarks play with these.
"""

import dataclasses
import gc
import hashlib
import os
import pickle
import random
import re
import subprocess
import sys
import tracemalloc
import typing
from collections.abc import Callable, Iterable, Sequence

from agentrl.envs import base, border, parsing, registry, tasks

Script = Sequence[str]  # answers of an agent, in order
Transcript = list[str | base.StepResult]  # the first observation, then the results

_MAX_WALK = 50  # answers of a walk without an oracle
_FORM = re.compile(r"<\w+>")  # an action with a place to fill in: search[<keywords>]
_FIXED_WALK = ("Action: look", "Action: inventory", "Action: help", "Action: search[a]")


@dataclasses.dataclass(frozen=True)
class _Rules:
    """What an observational oracle sees of its environment, apart from text."""

    instruction: str
    config: base.EnvConfig


def sample_tasks(name: str, config: base.EnvConfig, count: int = 3) -> tuple[str, ...]:
    """A fixed sample of the test tasks of an environment."""
    return tasks.select_tasks(name, "test", config, limit=count).item_ids


def record_script(name: str, config: base.EnvConfig, item_id: str) -> Script:
    """Writes down the answers of an oracle, or of a fixed walk, to one task.

    The second answer is nonsense, so that refused answers are part of every script.
    """
    env = registry.make(name, config)
    observation = _start(env, item_id)
    act = _make_actor(env, item_id)
    script: list[str] = []
    while True:
        answer = "nonsense" if len(script) == 1 else check_answer(act(observation))
        script.append(answer)
        result = _step(env, answer)
        if result.done or len(script) == _MAX_WALK:
            return script
        if answer != "nonsense":
            observation = result.observation


def check_answer(answer: object) -> str:
    """Returns an oracle's answer as a worker passes it on.

    Raises:
      InvalidResultError: if it is no text, or too long.
    """
    return border.check_text("the oracle's answer", answer, base.MAX_ACTION_CHARS)


def _start(env: base.Environment, item_id: str) -> str:
    first = env.reset(item_id)
    border.check_text("the first observation", first, border.MAX_OBSERVATION_BYTES)
    return first


def _step(env: base.Environment, answer: str) -> base.StepResult:
    """The result as it is, for comparisons to see all of it, if workers would take it."""
    result = env.step(answer)
    border.check_result(result, border.MAX_OBSERVATION_BYTES)
    return result


def play_script(
    env: base.Environment, item_id: str, script: Iterable[str]
) -> Transcript:
    """Plays answers until they or the episode end."""
    transcript: Transcript = [_start(env, item_id)]
    for answer in script:
        result = _step(env, answer)
        transcript.append(result)
        if result.done:
            break
    return transcript


def make_oracle(env: base.Environment, kind: base.OracleKind) -> base.Oracle:
    """Builds an oracle for the episode that `env` has just started.

    An observational one gets no more of `env` than its rules and configuration.

    Raises:
      EnvConfigError: if the environment has no such oracle.
    """
    make = require_oracle(env.name, kind)
    perturbed = env.perturbation.is_active
    rules = env.plain_instruction if perturbed else env.instruction
    seen = env if kind == "privileged" else _Rules(rules, env.config)
    oracle = make(typing.cast(base.Environment, seen))
    return _Translated(oracle, env) if perturbed else oracle


class _Translated:
    """An oracle that reads the environment's own words, and writes perturbed ones."""

    def __init__(self, oracle: base.Oracle, env: base.Environment):
        self._oracle = oracle
        self._env = env

    def act(self, observation: str) -> str:
        """Returns the oracle's answer to what `observation` was made of."""
        del observation
        answer = self._oracle.act(self._env.plain_observation)
        return self._env.perturbation.write(answer)


class RandomActor:
    """Chooses uniformly among the available actions; in place of an oracle.

    The draws depend on the task and on the number of its episode alone.
    """

    def __init__(self, env: base.Environment, item_id: str, sample: int):
        self._env = env
        self._draws = random.Random(base.stable_hash("random policy", item_id, sample))

    def act(self, observation: str) -> str:
        """Returns an answer with one of the actions, whatever was observed.

        Raises:
          OracleRefusalError: if the environment lists no action that is ready to take.
        """
        del observation
        listed = self._env.available_actions() or ()
        ready = [action for action in listed if not _FORM.search(action)]
        if not ready:
            raise base.OracleRefusalError(
                f"environment '{self._env.name}' lists no actions to choose from."
            )
        answer = parsing.render_react("", self._draws.choice(ready))
        return self._env.perturbation.write(answer)


def make_advisor(
    env: base.Environment, item_id: str, wanted: base.Advisor
) -> base.Oracle:
    """Builds what advises in the episode of `item_id` that `env` has just started.

    Raises:
      EnvConfigError: if the environment has no such oracle.
    """
    if isinstance(wanted, base.RandomPolicy):
        return RandomActor(env, item_id, wanted.sample)
    return make_oracle(env, wanted)


def require_oracle(
    name: str, kind: base.OracleKind
) -> Callable[[base.Environment], base.Oracle]:
    """Returns what makes an environment's oracles of a kind.

    Raises:
      EnvConfigError: if the environment has no such oracle.
    """
    oracles = registry.get_spec(name).oracles
    if kind not in oracles:
        raise base.EnvConfigError(
            f"environment '{name}' has no {kind} oracle; it has {list(oracles)}."
        )
    return oracles[kind]


def play_oracle(
    name: str, config: base.EnvConfig, item_id: str, kind: base.OracleKind
) -> list[tuple[str, base.StepResult]]:
    """Lets an oracle play a task to its end.

    Returns:
      The oracle's answers and what each led to; the last result holds the outcome.

    Raises:
      OracleRefusalError: if the oracle does not know this kind of task.
      InvalidResultError: if environment or oracle return something invalid.
    """
    env = registry.make(name, config)
    observation = _start(env, item_id)
    oracle = make_oracle(env, kind)
    turns = []
    while True:
        answer = check_answer(oracle.act(observation))
        result = _step(env, answer)
        turns.append((answer, result))
        if result.done:
            return turns
        observation = result.observation


def transcript_digest(name: str, config: base.EnvConfig) -> str:
    """SHA-256 over the transcripts of sampled tasks."""
    digest = hashlib.sha256()
    for item_id in sample_tasks(name, config):
        script = record_script(name, config, item_id)
        transcript = play_script(registry.make(name, config), item_id, script)
        digest.update(repr(transcript).encode())
    return digest.hexdigest()


def instance_bytes(name: str, config: base.EnvConfig, count: int = 200) -> int:
    """Bytes that each of `count` instances in play adds, as Python counts them.

    What libraries allocate on their own is not seen. Counting slows down: call it in a
    process of its own.
    """
    ids = sample_tasks(name, config, 20)
    for item_id in ids:  # loads what is shared
        play_script(registry.make(name, config), item_id, _FIXED_WALK)
    gc.collect()
    tracemalloc.start()
    instances = [registry.make(name, config) for _ in range(count)]
    for number, env in enumerate(instances):
        play_script(env, ids[number % len(ids)], _FIXED_WALK[:1])
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used // count


def start_elsewhere(
    function: str, arguments: tuple[str, base.EnvConfig], *, hash_seed: str
) -> subprocess.CompletedProcess[bytes]:
    """Runs a function of this module in a new process, which prints what it returns."""
    code = (
        "import pickle, sys; from agentrl.envs import episodes; "
        f"print(episodes.{function}(*pickle.load(sys.stdin.buffer)))"
    )
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(arguments),
        capture_output=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
    )


def _make_actor(env: base.Environment, item_id: str) -> Callable[[str], str]:
    """An oracle of the environment, or a walk over its actions fixed by the task."""
    for kind in registry.get_spec(env.name).oracles:
        return make_oracle(env, kind).act

    def walk(observation: str) -> str:
        actions = env.available_actions()
        if not actions:
            return _FIXED_WALK[base.stable_hash(observation) % len(_FIXED_WALK)]
        choice = base.stable_hash(item_id, observation) % len(actions)
        return env.perturbation.write(parsing.render_react("", actions[choice]))

    return walk
