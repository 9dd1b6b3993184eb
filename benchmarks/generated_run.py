"""The files of a run that nobody trained, of any size, for what reads runs.

Curves, outcomes and texts are drawn at random so that they look like a run that learns;
no number of it means anything.
"""

import json
import pathlib
import random
from collections.abc import Iterator
from typing import Any

from agentrl import config, storage, types
from agentrl.envs import base
from agentrl.experiment import files
from agentrl.models.model_config import ModelConfig
from agentrl.reporting import metrics
from agentrl.statistics import results
from agentrl.transcripts import episodes

ENVIRONMENTS = ("textcraft", "babyai")
GROUP = 8
_WORDS = (
    *("stick", "plank", "oak_log", "iron_ingot", "torch", "coal", "ladder", "bowl"),
    *("chest", "red", "yellow", "ball", "key", "box", "door", "left", "right", "get"),
    *("forward", "see", "nothing", "inventory", "recipe", "using", "craft"),
)


def make_settings(iterations: int, *, seed: int = 0) -> config.RunConfig:
    """Returns a warm start and two stages of GRPO, of about `iterations` together."""

    def stage(name: str, share: float, *environments: str, **fields: Any):
        return config.StageConfig(
            name=name,
            mixture=config.MixtureConfig(
                environments=tuple((env, 1.0) for env in environments)
            ),
            num_iterations=max(2, round(iterations * share)),
            **fields,
        )

    return config.RunConfig(
        name="generated",
        seed=seed,
        model=ModelConfig(),
        environments={env: base.EnvConfig() for env in ENVIRONMENTS},
        stages=(
            stage("warm_start", 0.2, *ENVIRONMENTS, algorithm=config.Supervised()),
            stage("textcraft", 0.4, "textcraft", algorithm=config.Grpo()),
            stage("mixture", 0.4, *ENVIRONMENTS, algorithm=config.Grpo()),
        ),
    )


class Generator:
    """Writes a run iteration by iteration."""

    def __init__(self, workdir: pathlib.Path, settings: config.RunConfig):
        self._workdir, self._settings = workdir, settings
        self._random = random.Random(settings.seed)
        self._now = 1.8e9
        self._step = 0
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / files.RUN_FILE
        storage.write_json(path, files.describe_run(settings))

    def write(self, *, episodes_per_iteration: int) -> None:
        """Writes all stages with their evaluations."""
        for _ in self.iterations(episodes_per_iteration=episodes_per_iteration):
            pass

    def iterations(self, *, episodes_per_iteration: int) -> Iterator[None]:
        """Writes an iteration whenever it is asked for the next."""
        count = len(self._settings.stages)
        for index, stage in enumerate(self._settings.stages):
            for iteration in range(stage.num_iterations):
                skill = (index + iteration / stage.num_iterations) / count
                self._write_iteration(
                    index, stage, iteration, skill, episodes_per_iteration
                )
                yield
            self._evaluate(stage, (index + 1) / count)

    def _write_iteration(
        self,
        index: int,
        stage: config.StageConfig,
        iteration: int,
        skill: float,
        count: int,
    ) -> None:
        draw, seconds = self._random, 2 + self._random.random()
        self._step, self._now = self._step + 2, self._now + seconds
        record: dict[str, Any] = {
            "stage_index": index,
            "stage": stage.name,
            "iteration": iteration,
            "step": self._step,
            "wall_time": self._now,
            "policy/loss": (2 * (1.1 - skill) if stage.supervised else 0)
            + 0.05 * draw.gauss(0, 1),
            "policy/entropy": 1.4 - skill + 0.03 * draw.gauss(0, 1),
            "optimizer/grad_norm": 0.4 * (1 + draw.random()),
            "learner/tokens": 40000 + draw.randrange(4000),
            "learner/trained_actions": 9000,
            "learner/attention_pairs": 8_000_000,
            "time/total": seconds,
            "time/update": 0.4 * seconds,
            "time/pack": 0.1 * seconds,
            "perf/mfu": 0.3 + 0.02 * draw.gauss(0, 1),
            "perf/learner_tokens_per_second": 30000.0,
        }
        if not stage.supervised:
            names = [name for name, _ in stage.mixture.environments]
            played = list(self._play(stage, iteration, names, skill, count))
            path = self._workdir / episodes.FOLDER / f"{stage.name}.jsonl"
            _append(path, played)
            record |= _summarize(played, names)
            record |= {
                "policy/first_logprob_mismatch": 10 ** draw.uniform(-7, -6.2),
                "rollout/zero_variance_groups": 0.2 + 0.5 * draw.random() * skill,
                "time/rollout": 0.45 * seconds,
                "perf/decode_tokens_per_second": 4000 + 300 * draw.gauss(0, 1),
            }
        _append(self._workdir / metrics.FILE, [record])

    def _play(
        self,
        stage: config.StageConfig,
        iteration: int,
        names: list[str],
        skill: float,
        count: int,
    ) -> Iterator[dict[str, Any]]:
        for number in range(count):
            group, sample = divmod(number, GROUP)
            env = names[group % len(names)]
            item = f"{env}_{(iteration * 31 + group * 7) % 300}"
            yield self._episode(stage.name, iteration, env, item, group, sample, skill)

    def _episode(
        self,
        stage: str,
        iteration: int,
        env: str,
        item: str,
        group: int,
        sample: int,
        skill: float,
    ) -> dict[str, Any]:
        draw = self._random
        hardness = (hash_of(item) % 100) / 100
        success = draw.random() < max(0.02, min(0.97, 1.3 * skill - 0.6 * hardness))
        turns = draw.randint(2, 5) if success else draw.randint(4, 8)
        ending = types.Ending.SOLVED if success else draw.choice(
            [types.Ending.MAX_TURNS, types.Ending.MAX_TOKENS, types.Ending.FAILED]
        )  # fmt: skip
        tags = () if success else (draw.choice(["repeat_loop", "invalid_action",
                                                "fabrication", "wrong_plan"]),)  # fmt: skip
        stored = episodes.StoredEpisode(
            stage=stage,
            iteration=iteration,
            env=env,
            item_id=item,
            group=group,
            sample=sample,
            policy_step=self._step,
            ending=ending,
            success=success,
            score=float(success),
            reward=float(success),
            turns=tuple(
                self._turn(success and t == turns - 1, success, group < 2)
                for t in range(turns)
            ),
            final_observation=self._text(12),
            failures=tags if ending is types.Ending.FAILED or success
            else (*tags, "timeout"),
            config=episodes.describe_config(base.EnvConfig()),
        )  # fmt: skip
        return episodes.to_record(stored)

    def _turn(self, last: bool, success: bool, by_token: bool) -> episodes.StoredTurn:
        words = self._text(4).split()
        pieces = ["Action", ":\n", *(f" {word}" for word in words), ""]
        numbers = {
            "lengths": [len(piece) for piece in pieces],
            "logprobs": [round(-self._random.expovariate(1.5), 3) for _ in pieces],
            "advantages": 0.9 if success else -1.1,
            "weights": 1.0,
        }
        return episodes.StoredTurn(
            observation=self._text(30),
            action="".join(pieces),
            tokens=numbers if by_token else None,
            reward=float(last),
            valid=self._random.random() < 0.9,
            observation_tokens=42,
            action_tokens=9,
        )

    def _text(self, words: int) -> str:
        return " ".join(self._random.choices(_WORDS, k=words))

    def _evaluate(self, stage: config.StageConfig, skill: float) -> None:
        for env in ENVIRONMENTS:
            played = [
                self._episode(stage.name, stage.num_iterations, env,
                              f"{env}_{300 + task}", task, sample, skill)
                for task in range(40)
                for sample in range(GROUP)
            ]  # fmt: skip
            name = f"evaluation.{stage.name}.{env}.jsonl"
            _append(self._workdir / episodes.FOLDER / name, played)
            rows = [played[i : i + GROUP] for i in range(0, len(played), GROUP)]
            results.EvaluationResult(
                stage=stage.name,
                after_iteration=stage.num_iterations,
                step=self._step,
                env=env,
                split="test",
                tier="all",
                panel_version=f"{env}-1",
                panel_digest="generated",
                item_ids=tuple(row[0]["item_id"] for row in rows),
                success=tuple(tuple(e["success"] for e in row) for row in rows),
                score=tuple(tuple(e["score"] for e in row) for row in rows),
                turns=tuple(tuple(len(e["turns"]) for e in row) for row in rows),
                tokens=tuple(tuple(9 * len(e["turns"]) for e in row) for row in rows),
            ).save(self._workdir)


def hash_of(text: str) -> int:
    """A number that depends on a text alone."""
    return base.stable_hash(text)


def _summarize(played: list[dict[str, Any]], names: list[str]) -> dict[str, float]:
    values: dict[str, float] = {}
    for ending in types.Ending:
        share = sum(e["ending"] == ending for e in played) / len(played)
        values[f"rollout/ending/{ending.value}"] = share
    for env in names:
        of_env = [e for e in played if e["env"] == env]
        if of_env:
            success = sum(e["success"] for e in of_env) / len(of_env)
            turns = sum(len(e["turns"]) for e in of_env) / len(of_env)
            values |= {
                f"env/{env}/success": success,
                f"env/{env}/return": success,
                f"env/{env}/turns": turns,
                f"env/{env}/action_tokens": 9 * turns,
            }
    return values


def _append(path: pathlib.Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
