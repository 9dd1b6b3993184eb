"""Drift: how far an evaluated policy is from others, on the episodes that it plays.

Its own log-probabilities are computed again by the learner's forward pass, which the
others' come from too, so that rounding between sampler and learner is no drift, and a
policy's drift from itself is 0. `agentrl.statistics.drift` has what is estimated.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np

from agentrl import config, errors, types
from agentrl.chat import tokenizer
from agentrl.checkpoints import checkpoint
from agentrl.experiment import files
from agentrl.learner import scoring, update
from agentrl.models import transformer
from agentrl.ops import kl
from agentrl.parallel import sharding
from agentrl.run import assemble, parameters, stages
from agentrl.statistics import drift, results

INITIAL = "initial"  # names what the evaluated run started from
# Fields of a model that may differ between policies that are compared.
_FREE_FIELDS = (
    *("critic", "init", "precision", "attention", "scan_blocks", "max_positions"),
)
_WEIGHTS = (
    "seed",
    "lora",
    "trainable",
    "start_from",
    "weights",
)  # of a run's parameters
_COLUMNS = 128  # longer rows than the learner's are a multiple of it

ByPanel = Mapping[str, Sequence[types.Trajectory]]  # episodes by environment
_Scored = dict[str, list[np.ndarray]]  # by environment, float64[A] of each episode


@dataclasses.dataclass(frozen=True)
class Other:
    """A policy to measure the drift from; its parameters are loaded when needed."""

    name: str  # as it was given
    held: parameters.Parameters
    path: pathlib.Path | None  # None for `INITIAL`

    def load(self) -> checkpoint.StoredPolicy:
        """Loads the trained parameters, where the learner of the evaluated run has its."""
        if self.path is None:
            start = types.Progress(stage_name=results.UNTRAINED_STAGE)
            return checkpoint.StoredPolicy(self.held.init(), start, 0)
        digest = self.held.frozen_digest
        return checkpoint.restore_policy(
            self.path, self.held.abstract, frozen_digest=digest
        )

    def release(self, kept: parameters.Parameters) -> None:
        """Lets go of its frozen parameters, unless they are those of `kept`."""
        if self.held is not kept:
            vars(self.held).pop("frozen", None)  # of the cached property


def find(run: assemble.Run, names: Sequence[str]) -> list[Other]:
    """Finds the policies to compare the run's with, before anything is played.

    Args:
      run: of the policy that is evaluated.
      names: working directories of runs, or their checkpoints/STEP, or `INITIAL`.

    Raises:
      CheckpointError: if there is no such checkpoint.
      ConfigError: if it cannot be compared, saying what differs, or the evaluation does
        not sample from the policy itself.
    """
    if names:
        _check_evaluation(run)
    return [_find(run, name) for name in names]


def _check_evaluation(run: assemble.Run) -> None:
    if jax.process_count() > 1:
        raise errors.ConfigError(
            f"drift is measured on one host, and there are {jax.process_count()}; "
            "evaluate the checkpoint in one process, or leave out --compare_with."
        )
    settings = run.config.evaluation
    for env in settings.environments or run.environments:
        room = settings.rollout_of(env)
        if not room.temperature or room.top_k or room.top_p < 1:
            raise errors.ConfigError(
                "drift is measured on samples of the policy itself, but evaluation's "
                f"rollout of '{env}' has temperature = {room.temperature}, top_k = "
                f"{room.top_k}, top_p = {room.top_p}; give it a positive temperature, "
                "top_k = 0 and top_p = 1, or leave out --compare_with."
            )


def _find(run: assemble.Run, name: str) -> Other:
    if name == INITIAL:
        return Other(name, run.parameters, None)
    workdir, _ = checkpoint.find_checkpoint(name)
    settings = files.read_run(workdir)
    ours, theirs = (_describe_model(s) for s in (run.config, settings))
    for field, value in ours.items():
        if theirs[field] != value:
            raise errors.ConfigError(
                f"--compare_with={name}: model.{field} = {theirs[field]} there and "
                f"{value} in the evaluated run; policies of one shape can be compared."
            )
    _check_vocabulary(run, name, workdir, settings)
    model = dataclasses.replace(
        run.config.model, critic=settings.model.critic, init=settings.model.init
    )
    theirs = dataclasses.replace(settings, model=model)
    fields = (*_WEIGHTS, "model")
    if all(getattr(theirs, f) == getattr(run.config, f) for f in fields):
        held = run.parameters  # frozen parameters are in memory once
    else:
        held = parameters.Parameters(theirs, transformer.Model(model), run.mesh)
    return Other(name, held, pathlib.Path(name))


def _describe_model(settings: config.RunConfig) -> dict[str, object]:
    """What two policies must have in common, by field of the model."""
    model = settings.model
    names = (f.name for f in dataclasses.fields(model) if f.name not in _FREE_FIELDS)
    return {
        **{name: getattr(model, name) for name in names},
        "precision.params": model.dtypes.params,
    }


def _check_vocabulary(
    run: assemble.Run, name: str, workdir: pathlib.Path, settings: config.RunConfig
) -> None:
    ours = run.chat.tokenizer
    theirs = assemble.load_tokenizer(settings, workdir, run.pool)
    if ours.vocab_size != theirs.vocab_size:
        what = f"{theirs.vocab_size} ids there and {ours.vocab_size}"
    elif ours.stop_ids != theirs.stop_ids:
        what = f"stop tokens {theirs.stop_ids} there and {ours.stop_ids}"
    else:
        texts = zip(_texts(theirs), _texts(ours), strict=True)
        different = ((i, *pair) for i, pair in enumerate(texts) if pair[0] != pair[1])
        if (first := next(different, None)) is None:
            return
        what = f"id {first[0]} for {first[1]!r} there and for {first[2]!r}"
    raise errors.ConfigError(
        f"--compare_with={name}: the vocabulary has {what} in the evaluated run; policies "
        "that read the same tokens can be compared."
    )


def _texts(known: tokenizer.Tokenizer) -> list[str]:
    """The text of every id. It stands behind another, or its space might be dropped."""
    before = known.encode("a")
    return [known.decode([*before, index]) for index in range(known.vocab_size)]


def measure(
    run: assemble.Run,
    params: types.PyTree,
    episodes: ByPanel,
    settings: config.EvaluationConfig,
    others: Sequence[Other],
) -> dict[str, tuple[drift.Drift, ...]]:
    """Measures a policy's drift from others, by environment.

    The parameters of one other policy at a time are in memory.

    Args:
      run: of the policy.
      params: its trained parameters, in the learner's layout.
      episodes: that the policy has played; a task's samples lie side by side.
      settings: of the evaluation that they were played in.
      others: from `find`.
    """
    scorer = _Scorer(run, episodes, settings)
    own = scorer.score(run.parameters, params, "logprobs")
    entropy = scorer.score(run.parameters, params, "entropy")
    found: dict[str, list[drift.Drift]] = {env: [] for env in episodes}
    for other in others:
        stored = other.load()
        logprobs = scorer.score(other.held, stored.params, "logprobs")
        for env, played in episodes.items():
            sums = functools.partial(_sum, played, settings.samples)
            pairs = zip(logprobs[env], own[env], strict=True)
            log_ratios = [theirs - ours for theirs, ours in pairs]
            measured = drift.Drift(
                policy=other.name,
                stage=stored.progress.stage_name,
                step=stored.step,
                k1=sums(map(kl.k1, log_ratios)),
                k3=sums(map(kl.k3, log_ratios)),
                entropy=sums(entropy[env]),
            )
            found[env].append(measured)
        del stored  # before the next one is loaded
        other.release(run.parameters)
    return {env: tuple(measured) for env, measured in found.items()}


def _sum(
    played: Sequence[types.Trajectory], samples: int, of_tokens: Iterable[np.ndarray]
) -> drift.Rows:
    """Sums over the tokens of each episode, a row for each task; None where it is lost."""
    sums = [
        None if episode.ending.lost else float(np.sum(values)) + 0.0  # -0.0 becomes 0.0
        for episode, values in zip(played, of_tokens, strict=True)
    ]
    starts = range(0, len(sums), samples)
    return tuple(tuple(sums[start : start + samples]) for start in starts)


class _Scorer:
    """Scores the episodes of an evaluation by the learner's forward pass."""

    def __init__(
        self, run: assemble.Run, episodes: ByPanel, settings: config.EvaluationConfig
    ):
        self._run, self._episodes, self._settings = run, episodes, settings
        longest = max(
            (t.max_context for of in episodes.values() for t in of), default=1
        )
        columns = run.config.learner.row_tokens
        if longest > columns:  # evaluations may have more room than training
            columns = -(-longest // _COLUMNS) * _COLUMNS
        self._learner = dataclasses.replace(run.config.learner, row_tokens=columns)
        self._compiled: dict[
            tuple[object, float], Callable[..., update.TokenOutputs]
        ] = {}

    def score(
        self, held: parameters.Parameters, params: types.PyTree, which: str
    ) -> _Scored:
        """What a policy says of each episode's sampled tokens; see `scoring.ask`."""
        return {
            env: scoring.ask(
                played,
                functools.partial(
                    self._score_rows, held, self._settings.rollout_of(env).temperature
                ),
                self._learner,
                params,
                which,
            )
            for env, played in self._episodes.items()
        }

    def _score_rows(
        self,
        held: parameters.Parameters,
        temperature: float,
        params: types.PyTree,
        batch: types.TrainBatch,
    ) -> update.TokenOutputs:
        key = (held.config.lora, temperature)  # all that the function depends on
        if key not in self._compiled:
            self._compiled[key] = self._compile(held, temperature)
        placed = sharding.to_global(batch, self._run.mesh)
        return self._compiled[key](types.Params(params, held.frozen), placed)

    def _compile(
        self, held: parameters.Parameters, temperature: float
    ) -> Callable[..., update.TokenOutputs]:
        run = self._run
        forward = stages.place_forward(
            run.model,
            run.mesh,
            remat=False,
            chunk=run.config.learner.logprob_chunk,
            temperature=temperature,
            join=held.join,
            num_valid_tokens=run.num_valid_tokens,
        )
        return jax.jit(
            functools.partial(scoring.score_rows, forward=forward),
            out_shardings=sharding.replicated(run.mesh),
        )
