"""The study of arXiv 2603.12011: difficulty, transfer, sequences, mixtures, as data.

  python -m agentrl.launch.study --config=experiments/generalization/study.py \
    --scale=laptop --axes=across --workdir=W --plan

README.md beside says what each axis asks; RESULTS.md what came out.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from agentrl import config
from agentrl.envs import base
from agentrl.experiments.generalization import published, scale, scales
from agentrl.study import spec

# Five orders of all environments: from what untrained 7B models solve most to what they
# solve least, its reverse, the paper's order of listing, and two that mix.
ORDERS = {
    "easy_to_hard": ("babyai", "textcraft", "webshop", "searchqa", "alfworld"),
    "hard_to_easy": ("alfworld", "searchqa", "webshop", "textcraft", "babyai"),
    "as_listed": ("webshop", "searchqa", "textcraft", "alfworld", "babyai"),
    "mixed_1": ("textcraft", "alfworld", "babyai", "searchqa", "webshop"),
    "mixed_2": ("searchqa", "babyai", "alfworld", "textcraft", "webshop"),
}
NOISE = 0.25  # sentences without meaning for each sentence of an observation
# Training tasks of AgentGym's released lists, for the mixture by size.
SIZES = {
    "webshop": 3930,
    "alfworld": 2420,
    "babyai": 810,
    "textcraft": 374,
    "searchqa": 169615,
}


def get_study(scale: str, environments: Sequence[str]) -> spec.Study:
    """All cells of one scale, for some environments; empty takes all five."""
    made = scales.make(scale, environments)
    names = tuple(made.base.environments)
    return spec.Study(
        name=f"generalization, {scale} scale",
        base=made.base,
        cells=(
            *across(made, names),
            *within(made),
            *sequences(made, names),
            *pairs(made, names),
            *mixtures(made, names),
            *interfaces(made, names),
            *augmentations(made, names),
            *controls(made, names),
        ),
        difficulty=made.difficulty,
        drift_samples=made.drift_samples,
        published=published.NUMBERS,
        note=made.note,
    )


def reinforce(
    made: scale.Scale, name: str, *environments: str, **changes: object
) -> config.StageConfig:
    """A stage of GRPO on some environments, as long as their share of the budget."""
    mixture = config.MixtureConfig(
        environments=tuple((env, 1.0) for env in environments),
        tier=made.tier,
        subsets=tuple(s for env in environments for s in made.trained.get(env, ())),
    )
    stage = config.StageConfig(
        name=name,
        mixture=mixture,
        num_iterations=made.num_iterations * len(environments),
        rollout=made.room(environments),
        algorithm=made.algorithm,
        optimizer=made.optimizer,
    )
    return dataclasses.replace(stage, **changes)


def cell(
    made: scale.Scale,
    axis: str,
    name: str,
    *stages: config.StageConfig,
    **more: object,
) -> spec.Cell:
    """A cell that begins with the warm start, if the scale has one."""
    warm_start = made.warm_start
    if axis == "within" and made.difficulty_warm_start is not None:
        warm_start = made.difficulty_warm_start
    first = () if warm_start is None else (warm_start,)
    horizon = (
        ()
        if made.test_turns is None
        else (
            spec.Variant(
                name=f"turns_{made.test_turns}",
                flags=(f"--max_turns={made.test_turns}",),
            ),
        )
    )
    return spec.Cell(
        axis=axis,
        name=name,
        stages=(*first, *stages),
        **{"variants": horizon, **more},
    )


def across(made: scale.Scale, names: Sequence[str]) -> Iterator[spec.Cell]:
    """One environment, tested on all."""
    for env in names:
        yield cell(made, "across", env, reinforce(made, f"grpo_{env}", env))


def within(made: scale.Scale) -> Iterator[spec.Cell]:
    """Easy and hard tasks of one environment, alone, mixed and in both orders."""
    for env, tiers in made.difficulty.items():
        stages = {tier: _on_tier(made, env, tier, tiers) for tier in ("easy", "hard")}
        mixed = _on_tier(made, env, "mixed", tiers)
        half = {
            tier: dataclasses.replace(stage, num_iterations=stage.num_iterations // 2)
            for tier, stage in stages.items()
        }
        chains = {
            "easy": (stages["easy"],),
            "hard": (stages["hard"],),
            "mixed": (mixed,),
            "easy>hard": (half["easy"], half["hard"]),
            "hard>easy": (half["hard"], half["easy"]),
        }
        for name, chain in chains.items():
            evaluation = made.difficulty_evaluation
            yield cell(made, "within", f"{env} {name}", *chain, evaluation=evaluation)


def _on_tier(
    made: scale.Scale, env: str, tier: str, tiers: Mapping[str, tuple[str, ...]]
) -> config.StageConfig:
    stage = reinforce(made, f"grpo_{env}_{tier}", env)
    subsets = tiers.get(tier, tuple(s for of_tier in tiers.values() for s in of_tier))
    mixture = dataclasses.replace(
        stage.mixture,
        tier="all" if subsets or tier == "mixed" else tier,
        subsets=subsets,
    )
    return dataclasses.replace(stage, mixture=mixture)


def sequences(made: scale.Scale, names: Sequence[str]) -> Iterator[spec.Cell]:
    """All environments, one after the other, in five orders."""
    if len(names) < 2:
        return
    seen = set()
    for name, order in ORDERS.items():
        kept = tuple(env for env in order if env in names)
        if kept not in seen:  # with few environments, orders coincide
            seen.add(kept)
            stages = [reinforce(made, f"grpo_{env}", env) for env in kept]
            yield cell(made, "sequence", name, *stages)


def pairs(made: scale.Scale, names: Sequence[str]) -> Iterator[spec.Cell]:
    """Two environments, one after the other, in every order; only with --axes=pair."""
    for first, second in itertools.permutations(names, 2):
        stages = [reinforce(made, f"grpo_{env}", env) for env in (first, second)]
        yield cell(made, "pair", f"{first}>{second}", *stages)


def mixtures(made: scale.Scale, names: Sequence[str]) -> Iterator[spec.Cell]:
    """Several environments at once, with as many episodes as a sequence of all."""
    if len(names) < 2:
        return
    joint = _mix(made, "joint_equal", names, of=names)
    yield cell(made, "mixture", "equal", joint)
    for name, changes in (
        ("size", {"environments": tuple((e, float(SIZES[e])) for e in names)}),
        ("adaptive", {"kind": "adaptive"}),
    ):
        mixture = dataclasses.replace(joint.mixture, **changes)
        stage = dataclasses.replace(joint, name=f"joint_{name}", mixture=mixture)
        yield cell(made, "mixture", name, stage)
    if len(names) > 2:
        for left_out in names:
            others = [env for env in names if env != left_out]
            stage = _mix(made, f"joint_without_{left_out}", others, of=names)
            yield cell(made, "mixture", f"without_{left_out}", stage)


def _mix(
    made: scale.Scale, name: str, environments: Sequence[str], of: Sequence[str]
) -> config.StageConfig:
    """A stage on a mixture, with the episodes of one stage for each environment of `of`.

    An environment with long episodes may play fewer tasks in an iteration. A mixture plays
    as many as the others do, for fewer iterations.
    """
    alone = [made.room((env,)) for env in of]
    room = dataclasses.replace(
        made.room(environments),
        tasks_per_iteration=max(room.tasks_per_iteration for room in alone),
    )
    episodes = made.num_iterations * sum(room.num_episodes for room in alone)
    return reinforce(
        made,
        name,
        *environments,
        rollout=room,
        num_iterations=round(episodes / room.num_episodes),
    )


def interfaces(made: scale.Scale, names: Sequence[str]) -> Iterator[spec.Cell]:
    """Lists of actions always or never in training, both in tests.

    Only environments whose lists fit have them: each observation is several times as long.
    """
    listed = {env: times for env, times in made.listed.items() if env in names}
    wide = _widen(made, listed)
    choices: tuple[base.ListActions, ...] = ("always", "never")
    for env, lists in itertools.product(listed, choices):
        changed = {
            name: dataclasses.replace(settings, list_actions=lists)
            if name in listed
            else settings
            for name, settings in made.base.environments.items()
        }
        tested = f"--envs={','.join(listed)}"
        variants = tuple(
            spec.Variant(name=f"lists_{kind}", flags=(f"--list_actions={kind}", tested))
            for kind in choices
            if kind != lists
        )
        yield cell(
            wide,
            "interface",
            f"{env} lists_{lists}",
            reinforce(wide, f"grpo_{env}_lists_{lists}", env),
            environments=changed,
            evaluation=wide.base.evaluation,
            learner=wide.base.learner,
            variants=variants,
        )


def augmentations(made: scale.Scale, names: Sequence[str]) -> Iterator[spec.Cell]:
    """Irrelevant text in the observations of training, and in some of the tests.

    Panels without it are those of `across`, whose policies have never seen it.
    """
    wide = _widen(made, dict.fromkeys(names, 2))
    amount = {"irrelevant_text": NOISE}
    noisy = {
        name: dataclasses.replace(settings, options={**settings.options, **amount})
        for name, settings in made.base.environments.items()
    }
    for env in names:
        yield cell(
            wide,
            "augmentation",
            env,
            reinforce(wide, f"grpo_{env}_noise", env),
            environments=noisy,
            evaluation=dataclasses.replace(
                wide.base.evaluation, env_options={"irrelevant_text": 0.0}
            ),
            learner=wide.base.learner,
            variants=(
                spec.Variant(
                    name="noise", flags=(f"--env_option=irrelevant_text={NOISE}",)
                ),
            ),
        )


def _widen(made: scale.Scale, times: Mapping[str, int]) -> scale.Scale:
    """Gives the episodes of some environments several times the room, and its buckets."""

    def room(names: Sequence[str]) -> config.RolloutConfig:
        narrow = made.room(names)
        alone = ((made.room((env,)).max_tokens, times.get(env, 1)) for env in names)
        longest = max(tokens * factor for tokens, factor in alone)
        factor = max(times.get(env, 1) for env in names)

        def widen(buckets: Sequence[int]) -> tuple[int, ...]:
            return tuple(sorted({min(factor * size, longest) for size in buckets}))

        return dataclasses.replace(
            narrow,
            max_tokens=longest,
            append_buckets=widen(narrow.append_buckets),
            cache_buckets=widen(narrow.cache_buckets),
        )

    everything = room(tuple(made.base.environments))
    evaluation, learner = made.base.evaluation, made.base.learner
    return dataclasses.replace(
        made,
        room=room,
        warm_start=made.warm_start
        and dataclasses.replace(made.warm_start, rollout=everything),
        base=dataclasses.replace(
            made.base,
            evaluation=dataclasses.replace(
                evaluation,
                rollout=everything,
                rollouts={env: room((env,)) for env in evaluation.rollouts},
            ),
            learner=dataclasses.replace(
                learner, row_tokens=max(learner.row_tokens, everything.max_tokens)
            ),
        ),
    )


def controls(made: scale.Scale, names: Sequence[str]) -> Iterator[spec.Cell]:
    """Returns dealt out at random within each group: nothing can be learned from them."""
    algorithm = dataclasses.replace(made.algorithm, shuffle_returns="group")
    for env in names[:2]:
        stage = reinforce(made, f"shuffled_{env}", env, algorithm=algorithm)
        yield cell(made, "control", f"shuffled {env}", stage)
