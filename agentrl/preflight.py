"""Checks before a run that need its tasks: nothing is written, no device is used.

All stages are looked at, so that a mistake in the last one does not wait for those
before it to be trained.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from agentrl import config, errors, types
from agentrl.chat import renderer
from agentrl.envs import base, demonstrations, pool, registry, tasks
from agentrl.run import assemble
from agentrl.supervised import warmstart

MAX_TASKS = 32  # of each panel whose first observations are looked at
MAX_ANSWERED = 16  # of each panel that an oracle plays, to count what answers take


@dataclasses.dataclass
class Findings:
    """What the checks have made on the way, which the run then need not make again."""

    chat: renderer.Chat
    notes: list[str]  # what a person should know before training
    demonstrations: dict[str, list[types.Trajectory]]  # by supervised stage


def check(
    settings: config.RunConfig, workdir: pathlib.Path, *, first_stage: int = 0
) -> Findings:
    """Checks panels, tokens of observations and answers, demonstrations and servers.

    Args:
      settings: the run; `RunConfig.validate` has been called.
      workdir: its directory, which may not exist yet.
      first_stage: index of the first one that is not finished; earlier ones are not
        checked.

    Raises:
      ConfigError: if a stage or the evaluation cannot work.
      TaskSelectionError: if tasks do not exist, or a file of them cannot be read.
      PoolError: if an environment cannot be made.
    """
    rollouts = [
        *_stage_panels(settings, first_stage),
        *_evaluation_panels(settings, first_stage),
    ]
    with assemble.open_pool(settings) as environments:
        chat = assemble.make_chat(settings, workdir, environments)
        found = Findings(chat, [], {})
        oracles = _Oracles(chat, environments)
        for where, rollout, panel, learned in rollouts:
            found.notes += check_first_observations(
                where, rollout, panel, chat=chat, environments=environments
            )
            thoughts = _thinks(learned, panel.env)
            found.notes += check_answers(
                where, rollout, panel.env, oracles.play(panel, thoughts=thoughts)
            )
        for stage in settings.stages[first_stage:]:
            if isinstance(stage.algorithm, config.Supervised):
                found.demonstrations[stage.name], notes = check_demonstrations(
                    settings, stage, stage.algorithm, chat, environments
                )
                found.notes += notes
    return found


def check_selections(settings: config.RunConfig) -> None:
    """Checks names and files of all selections of tasks, without loading any data.

    Raises:
      ConfigError: naming the stage, or the evaluation, and what it cannot select.
    """
    chosen: dict[str, tuple[Iterable[str], dict[str, Any]]] = {
        f"stage '{stage.name}'": (
            [name for name, _ in stage.mixture.environments],
            stage.mixture.selection,
        )
        for stage in settings.stages
    }
    evaluated = settings.evaluation.environments or settings.environments
    chosen["evaluation"] = evaluated, settings.evaluation.selection
    for where, (names, selection) in chosen.items():
        played = {name: settings.environments[name] for name in names}
        # One list of subsets may serve all stages: what is of another of the run's
        # environments has no effect here.
        selection["subsets"] = [
            subset
            for subset in selection["subsets"]
            if (env := subset.partition("/")[0]) in played
            or env not in settings.environments
        ]
        try:
            tasks.check_selection(played, others=settings.environments, **selection)
        except tasks.TaskSelectionError as error:
            raise errors.ConfigError(f"{where}: {error}") from error


def check_oracles(settings: config.RunConfig) -> None:
    """Checks that environments have the oracles that a run learns words and acts from.

    Raises:
      ConfigError: naming the field, and what to give for an environment without one.
    """
    everywhere = tuple(settings.environments)
    needs: list[tuple[str, tuple[str, ...], str]] = []
    if settings.tokenizer.kind == "train_sentencepiece" and not settings.start_from:
        kinds = "another kind, such as 'bytes', or a model with its own vocabulary"
        needs.append(("tokenizer.kind = 'train_sentencepiece'", everywhere, kinds))
    if shown := settings.tokenizer.few_shot:
        needs.append((f"tokenizer.few_shot = {shown}", everywhere, "0"))
    for stage in settings.stages:
        source = stage.algorithm
        if isinstance(source, config.Supervised) and not source.conversations:
            names = tuple(name for name, _ in stage.mixture.environments)
            where = f"stage '{stage.name}': a warm start without a file"
            needs.append((where, names, "algorithm.conversations=FILE"))
    for where, names, instead in needs:
        for name in names:
            if "observational" not in registry.get_spec(name).oracles:
                raise errors.ConfigError(
                    f"{where} learns from an observational oracle, and environment "
                    f"'{name}' has none; give {instead}."
                )


def check_first_observations(
    where: str,
    rollout: config.RolloutConfig,
    panel: base.TaskPanel,
    *,
    chat: renderer.Chat,
    environments: pool.EnvPool,
) -> list[str]:
    """Resets some tasks of a panel and counts the tokens before their first action.

    Args:
      where: name of the stage, for messages.
      rollout: gives the room.
      panel: up to `MAX_TASKS` tasks of it are reset, spread over the panel.
      chat: renders them.
      environments: plays them.

    Returns:
      A sentence if some tasks leave no room for an action.

    Raises:
      ConfigError: if none of the tasks leaves room, or none can be reset.
    """
    ids = _spread(panel.item_ids, MAX_TASKS)
    environments.send_reset(dict(enumerate(ids)))
    replies = environments.receive(range(len(ids)))
    needed, failed = {}, ""
    for slot, item_id in enumerate(ids):
        reply = replies[slot]
        if reply.result is None:
            failed = reply.error or ""
            continue
        opened = chat.open(reply.instruction or "", reply.result.observation, item_id)
        needed[item_id] = len(opened) + 1  # the shortest action is a stop token
    if not needed:
        raise errors.ConfigError(
            f"{where}: none of {len(ids)} tasks of '{panel.env}' can be started. The "
            f"last: {failed}"
        )
    too_long = {i: count for i, count in needed.items() if count > rollout.max_tokens}
    if not too_long:
        return []
    longest = max(too_long, key=too_long.__getitem__)
    message = (
        f"{where}: {len(too_long)} of {len(needed)} tasks of '{panel.env}' that were "
        f"tried leave no room for an action in rollout.max_tokens = "
        f"{rollout.max_tokens}; {longest} needs {too_long[longest]} tokens"
    )
    if len(too_long) == len(needed):
        raise errors.ConfigError(f"{message}. Raise rollout.max_tokens.")
    return [f"{message}. Such episodes end before their first turn, as failures."]


def check_answers(
    where: str,
    rollout: config.RolloutConfig,
    env: str,
    played: Sequence[types.Trajectory],
) -> list[str]:
    """Checks that what an oracle writes could be written within a stage's limits.

    Args:
      where: name of the stage, for messages.
      rollout: gives the room.
      env: name of the environment.
      played: demonstrations of its tasks, in the form that the policy is to write; none
        where no oracle is.

    Returns:
      A sentence for each limit that some demonstrations do not keep.

    Raises:
      ConfigError: if none of their answers keeps one.
    """
    # An action that fills its limit is played without a stop token, if it is.
    stop = 0 if rollout.cut_actions == "end" else 1
    # By limit, of each demonstration: what all of it needs, and the least that a policy
    # which plays otherwise could do with: its shortest action, its first turn.
    needed = {
        "max_action_tokens": [
            (max(actions) - stop, min(actions) - stop)
            for actions in ([len(t.action_tokens) for t in e.turns] for e in played)
        ],
        "max_tokens": [
            (
                e.max_context,
                len(first.observation_tokens) + len(first.action_tokens) - stop,
            )
            for e in played
            for first in e.turns[:1]
        ],
    }
    notes = []
    for field, counts in needed.items():
        limit = getattr(rollout, field)
        num_long = sum(whole > limit for whole, _ in counts)
        if not num_long:
            continue
        message = (
            f"{where}: {num_long} of {len(counts)} demonstrations of '{env}' that were "
            f"tried do not fit into rollout.{field} = {limit}"
        )
        if all(least > limit for _, least in counts):
            raise errors.ConfigError(
                f"{message}, and no answer of any; the shortest needs "
                f"{min(least for _, least in counts)} tokens. Raise rollout.{field}."
            )
        longest = max(whole for whole, _ in counts)
        notes.append(
            f"{message}; they need up to {longest} tokens. Some tasks may be out of reach."
        )
    return notes


def check_demonstrations(
    settings: config.RunConfig,
    stage: config.StageConfig,
    source: config.Supervised,
    chat: renderer.Chat,
    environments: pool.EnvPool,
) -> tuple[list[types.Trajectory], list[str]]:
    """Collects the demonstrations of a warm start that fit into an episode.

    Returns:
      The demonstrations, and a sentence for each source of which some do not fit.

    Raises:
      ConfigError: if none of a source fits.
    """
    counts: dict[str, tuple[int, int]] = {}
    panels = {panel.env: panel for _, _, panel in _panels_of(settings, stage)}
    kept = warmstart.collect_demonstrations(
        {env: panels[env] for env in settings.environments if env in panels},
        environments,
        source,
        chat,
        max_tokens=stage.rollout.max_tokens,
        max_error_fraction=settings.max_env_error_fraction,
        counts=counts,
    )
    notes = [
        f"stage '{stage.name}': kept {fitting} of {total} demonstrations of '{origin}'; "
        f"the others do not fit into rollout.max_tokens = {stage.rollout.max_tokens}."
        for origin, (fitting, total) in counts.items()
        if fitting < total
    ]
    return kept, notes


class _Oracles:
    """Demonstrations of panels, each played once."""

    def __init__(self, chat: renderer.Chat, environments: pool.EnvPool):
        self._chat, self._environments = chat, environments
        self._played: dict[Any, list[types.Trajectory]] = {}

    def play(self, panel: base.TaskPanel, *, thoughts: bool) -> list[types.Trajectory]:
        """Up to `MAX_ANSWERED` tasks, spread over a panel; none without an oracle.

        What an oracle fails is left out: the run does not learn from these.
        """
        if "observational" not in registry.get_spec(panel.env).oracles:
            return []
        ids = _spread(panel.item_ids, MAX_ANSWERED)
        key = panel.env, ids, thoughts
        if key not in self._played:
            solved = demonstrations.collect(
                self._environments,
                panel.env,
                ids,
                thoughts=thoughts,
                max_error_fraction=1.0,
                allow_none=True,
            )
            self._played[key] = [
                warmstart.to_trajectory(
                    panel.env,
                    item_id,
                    self._chat.episode(instruction, exchanges, item_id),
                    self._chat,
                )
                for item_id, instruction, exchanges in solved
            ]
        return self._played[key]


def _thinks(learned: Sequence[config.StageConfig], env: str) -> bool:
    """Whether all that a policy has learned of an environment's answers has thoughts.

    Of a policy that has learned nothing here, actions alone are the least it may write.
    """
    forms = [
        stage.algorithm.thoughts
        for stage in learned
        if isinstance(stage.algorithm, config.Supervised)
        and not stage.algorithm.conversations
        and env in dict(stage.mixture.environments)
    ]
    return bool(forms) and all(forms)


def _spread(ids: Sequence[str], limit: int) -> tuple[str, ...]:
    """At most `limit` of the tasks, from all parts of a panel."""
    return tuple(ids[:: max(1, len(ids) // limit)][:limit])


_Panel = tuple[str, config.RolloutConfig, base.TaskPanel]  # where, room, tasks
# A panel, and the stages before its episodes, which say what answers look like.
_Played = tuple[*_Panel, Sequence[config.StageConfig]]


def _stage_panels(settings: config.RunConfig, first_stage: int) -> Iterator[_Played]:
    for index, stage in enumerate(settings.stages[first_stage:], first_stage):
        panels = list(_panels_of(settings, stage))
        if not stage.supervised:
            yield from ((*panel, settings.stages[:index]) for panel in panels)


def _panels_of(
    settings: config.RunConfig, stage: config.StageConfig
) -> Iterator[_Panel]:
    rule = stage.mixture
    for env, _ in rule.environments:
        panel = tasks.select_tasks(
            env, config=settings.environments[env], **rule.selection
        )
        yield f"stage '{stage.name}'", stage.rollout, panel


def _evaluation_panels(
    settings: config.RunConfig, first_stage: int
) -> Iterator[_Played]:
    rule = settings.evaluation
    if not any(stage.evaluate_after for stage in settings.stages[first_stage:]):
        return
    for env in rule.environments or settings.environments:
        panel = tasks.select_tasks(
            env, config=settings.environments[env], **rule.selection
        )
        yield "evaluation", rule.rollout_of(env), panel, settings.stages
