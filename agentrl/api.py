"""The library in five calls; `docs/howto_library.md` shows them at work.

`import agentrl` has them all, and imports this module, and with it JAX, at first use.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from agentrl import config, errors, session
from agentrl.buckets import mirror
from agentrl.envs import base, registry
from agentrl.evaluation import comparison, evaluator
from agentrl.experiment import fields, files
from agentrl.play import policy
from agentrl.play.policy import Conversation, Policy, Reply
from agentrl.statistics import results
from agentrl.statistics.results import EvaluationResult

__all__ = [
    "Conversation",
    "EvaluationResult",
    "Policy",
    "Reply",
    "Results",
    "evaluate",
    "load_policy",
    "load_results",
    "make_env",
    "train",
]

load_policy = policy.load

_PATH = (str, os.PathLike)


class Results(list[EvaluationResult]):
    """Evaluations of a run, in the order in which its policy learned."""

    def __repr__(self) -> str:
        """Stage, environment and mean success of each, a line for each."""
        lines = [
            f"  {r.stage}, {r.env}: success {100 * r.means['success']:.1f} % of "
            f"{len(r.item_ids)} tasks x {r.samples}"
            for r in self
        ]
        count = f"{len(self)} evaluation{'s' * (len(self) != 1)}"
        return "\n".join([f"{count}; rows() or to_frame() has all samples", *lines])

    def rows(self) -> list[dict[str, Any]]:
        """Returns one record for each finished sample of each task.

        A record has stage, step, env, split, tier, item_id, sample, success, score, turns
        and tokens (those that the policy wrote). What an environment lost has none.
        """
        return [
            {
                "stage": result.stage,
                "step": result.step,
                "env": result.env,
                "split": result.split,
                "tier": result.tier,
                "item_id": item_id,
                "sample": sample,
                "success": success,
                "score": result.score[task][sample],
                "turns": result.turns[task][sample],
                "tokens": result.tokens[task][sample],
            }
            for result in self
            for task, item_id in enumerate(result.item_ids)
            for sample, success in enumerate(result.success[task])
            if success is not None
        ]

    def to_frame(self) -> Any:
        """Returns `rows()` as a `pandas.DataFrame`.

        Raises:
          ImportError: if pandas, which is optional, is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-not-found]
        except ImportError as error:
            raise ImportError(
                "to_frame needs pandas, which agentrl does not install: run "
                "`pip install pandas`, or take rows()."
            ) from error
        return pd.DataFrame(self.rows())


def train(
    experiment: config.RunConfig | str | pathlib.Path,
    workdir: str | pathlib.Path,
    *,
    overrides: Sequence[str] = (),
    model: str = "",
) -> Results:
    """Trains all stages of a run, or what is left of them, and evaluates.

    Args:
      experiment: a configuration, an experiment file, or the name of a packaged one.
      workdir: directory of the run; one that holds this very run is resumed.
      overrides: `field.path=value` each, as `--set` takes them.
      model: pretrained model to start from, as `--model` takes it.

    Returns:
      The results of all evaluations.

    Raises:
      ConfigError: if an argument is of another type, the configuration cannot work, or
        the directory is another run's.
      CheckpointError: if the run there cannot be resumed.
      EnvWorkerError: if environments failed more often than the run allows.
      TrainingError: if training produced numbers that must not be trained on.
    """
    kinds = (config.RunConfig, str, os.PathLike)
    _require("experiment", experiment, kinds, "a RunConfig, a file, or a packaged name")
    _require("workdir", workdir, _PATH, "a path")
    _require("model", model, str, "a string")
    _require_all("overrides", overrides, str, '["seed=1"]')
    model = session.model_of(model, pathlib.Path(workdir))
    if isinstance(experiment, config.RunConfig):
        settings = files.complete(experiment, overrides, model=model)
    else:
        settings = files.load(experiment, overrides, model=model)
    with mirror.opened(str(workdir)) as (local, publish):
        session.train(settings, local, publish=publish)
    return load_results(local)


def evaluate(
    checkpoint: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    compare_with: Sequence[str | pathlib.Path] = (),
    **changes: Any,
) -> Results:
    """Evaluates a stored policy.

    Args:
      checkpoint: working directory of a run, or one of its checkpoints/STEP.
      out: directory for results and episodes; new or empty.
      compare_with: other policies of the same shape and vocabulary, named as
        `checkpoint` is, or "initial" for what the run started from. The drift from each
        is part of the results; see `agentrl.statistics.drift`.
      **changes: fields of the run's `EvaluationConfig` to replace, such as
        `environments=("babyai",)`, `samples=4` or `tasks=20`.

    Returns:
      One result for each environment.

    Raises:
      CheckpointError: if there is no such checkpoint.
      ConfigError: if an argument is of another type, a change cannot work, `out` is not
        empty, or policies cannot be compared.
      EnvWorkerError: if an environment lost too many episodes.
    """
    _require("checkpoint", checkpoint, _PATH, "a path")
    _require("out", out, _PATH, "a path")
    _require_all("compare_with", compare_with, _PATH, '["initial"]')
    out = pathlib.Path(out)
    errors.refuse_files(out)
    checked = _check_changes(changes)
    with session.open_policy(mirror.readable(str(checkpoint)), checked) as opened:
        run, params, progress, step = opened
        others = comparison.find(run, [_readable(name) for name in compare_with])
        out.mkdir(parents=True, exist_ok=True)
        found = evaluator.evaluate(
            run,
            params,
            run.config.evaluation,
            stage=progress.stage_name,
            after_iteration=progress.iteration,
            step=step,
            workdir=out,
            others=others,
        )
    return Results(found)


def make_env(
    name: str, config: base.EnvConfig | None = None, **changes: Any
) -> base.Environment:
    """Makes an environment to `reset(item_id)` and `step(answer)` in this process.

    Args:
      name: of the environment, as `agentrl list environments` shows it.
      config: its configuration; None takes the defaults.
      **changes: fields of it to replace, such as `max_turns=5`.

    Raises:
      EnvConfigError: if there is no such environment, a field cannot work, or an argument
        is of another type.
    """
    if not isinstance(name, str):
        raise base.EnvConfigError(
            f"name = {name!r}; give the name of an environment, such as 'textcraft'."
        )
    if not isinstance(config, base.EnvConfig | None):
        raise base.EnvConfigError(
            f"config = {config!r} is no EnvConfig; give one, or fields by their names, "
            "such as max_turns=3."
        )
    known = [field.name for field in dataclasses.fields(base.EnvConfig)]
    for field in changes:
        if field not in known:
            raise base.EnvConfigError(
                f"an environment's configuration has no field {field!r}; it has "
                f"{', '.join(known)}."
            )
    settings = dataclasses.replace(config or base.EnvConfig(), **changes)
    return registry.make(name, settings)


def load_results(workdir: str | pathlib.Path) -> Results:
    """Reads the evaluations in a working directory, or in what `evaluate` wrote.

    Raises:
      DamagedFileError: if a file there is no result.
      ConfigError: if there is no such directory, or it holds no such thing.
    """
    _require("workdir", workdir, _PATH, "a path")
    workdir = mirror.readable(str(workdir))
    if not workdir.is_dir():
        raise errors.ConfigError(
            f"there is no directory {workdir}; give the workdir of a run, or the `out` "
            "of an evaluation."
        )
    is_run = (workdir / files.RUN_FILE).is_file()
    if not is_run and not (workdir / results.FOLDER).is_dir():
        raise errors.ConfigError(
            f"{workdir} holds neither {files.RUN_FILE} nor {results.FOLDER}/; give the "
            "workdir of a run, or the `out` of an evaluation."
        )
    environments = files.read_run(workdir).environments if is_run else ()
    return Results(results.load_all(workdir, environments))


def _require(
    name: str, value: Any, kinds: type | tuple[type, ...], wanted: str
) -> None:
    """Raises `ConfigError` if an argument is of another type."""
    if not isinstance(value, kinds):
        raise errors.ConfigError(f"{name} = {value!r:.80}; give {wanted}.")


def _require_all(
    name: str, value: Any, kinds: type | tuple[type, ...], example: str
) -> None:
    """Raises `ConfigError` if an argument is no sequence of these; text alone is none."""
    _require(name, value, Sequence, f"a list, such as {example}")
    if isinstance(value, str | bytes):
        raise errors.ConfigError(f"{name} = {value!r}; give a list, such as {example}.")
    for member in value:
        _require(f"a member of {name}", member, kinds, f"text, as in {example}")


def _readable(policy: str | pathlib.Path) -> str:
    """Where a policy to compare with can be read."""
    known = str(policy) == comparison.INITIAL
    return comparison.INITIAL if known else str(mirror.readable(str(policy)))


def _check_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Checks names and types of changed fields of an `EvaluationConfig`."""
    found = fields.convert(dict(changes), config.EvaluationConfig, "evaluate")
    return {name: getattr(found, name) for name in changes}
