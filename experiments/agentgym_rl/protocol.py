"""The protocols of AgentGym-RL and of the study of generalization, as stages.

Three sources, which differ:

  paper   AgentGym-RL, https://arxiv.org/abs/2509.08755, appendix B
  script  its repository WooooDyy/AgentGym-RL, `examples/train`, at commit 82402a9
  study   Can RL Improve Generalization of LLM Agents?, https://arxiv.org/abs/2603.12011

Common to them, and exact here: the conversation of AgentGym (instruction, a fixed
acknowledgement, observations), profile `agentgym` of the environments, GRPO with the
spread of the sample, groups without signal in the mean, divergence from the first policy
in the loss (k3, 0.001), an entropy bonus of 0.001, clipping at 0.2, a constant learning
rate, temperature 1, actions that are cut off closed and played.

What the sources do not say is ours, and marked below as such.
"""

import dataclasses

from agentrl import config
from agentrl.envs import base
from agentrl.pretrained import presets

# Turn caps of the study, in training; one cap for all in its tests.
STUDY_TURNS = {
    "webshop": 10,
    "searchqa": 5,
    "textcraft": 30,
    "alfworld": 10,
    "babyai": 15,
}
STUDY_TEST_TURNS = 20

_APPEND = (64, 256, 1024)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What one source says about training on one environment."""

    turns: int
    group_size: int
    tasks: int  # of one iteration
    minibatches: int  # of one pass over an iteration's episodes
    passes: int
    iterations: int
    prompt_tokens: int
    response_tokens: int  # of a whole episode
    action_tokens: int
    learning_rate: float = 1e-6
    scaling_turns: tuple[
        tuple[int, int], ...
    ] = ()  # ScalingInter: from iteration, turns


# Iterations are epochs times the tasks of AgentGym's lists over those of an iteration; for
# SearchQA, whose list is longer than what was trained on, three stages of 100 steps.
PAPER = {
    "searchqa": Recipe(4, 8, 32, 4, 2, 300, 1024, 8192, 512),
    "textcraft": Recipe(20, 8, 32, 4, 2, 330, 512, 10240, 512),
    "babyai": Recipe(20, 8, 16, 2, 1, 500, 1024, 4096, 200),
    "sciworld": Recipe(20, 8, 16, 2, 1, 1320, 1024, 4096, 200),
}
SCRIPT = {
    "searchqa": dataclasses.replace(
        PAPER["searchqa"],
        turns=5,
        group_size=4,
        scaling_turns=((0, 5), (100, 8), (200, 10)),
    ),
    "textcraft": dataclasses.replace(
        PAPER["textcraft"], turns=30, scaling_turns=((0, 10), (100, 20), (200, 30))
    ),
    "babyai": dataclasses.replace(
        PAPER["babyai"], scaling_turns=((0, 6), (100, 13), (200, 20))
    ),
    "sciworld": dataclasses.replace(
        PAPER["sciworld"], scaling_turns=((0, 10), (100, 20), (200, 30))
    ),
}
# Of the study are the caps, the group size and the 8,192 tokens. Batch, passes,
# iterations and learning rate are not disclosed: AgentGym-RL's.
STUDY = {
    env: Recipe(turns, 8, 32, 4, 2, 300, 1024, 8192, 512)
    for env, turns in STUDY_TURNS.items()
}


def train(
    name: str, recipes: dict[str, Recipe], *environments: str
) -> config.StageConfig:
    """A stage of GRPO on one environment, or on several in equal parts."""
    recipe = recipes[environments[0]]
    return config.StageConfig(
        name=name,
        mixture=config.MixtureConfig(
            environments=tuple((env, 1.0) for env in environments)
        ),
        num_iterations=recipe.iterations,
        rollout=_roll_out(recipe),
        algorithm=config.Grpo(
            updates_per_iteration=recipe.minibatches,
            passes=recipe.passes,
            advantage_scale="sample_std",
            keep_zero_variance=True,
            aggregation="token",
            entropy_coefficient=0.001,
            kl=config.KLConfig(coefficient=0.001, reference="run_start"),
        ),
        # Betas and decay are PyTorch's and verl's defaults; no source says them.
        optimizer=config.OptimizerConfig(
            learning_rate=recipe.learning_rate, b2=0.999, weight_decay=0.01
        ),
    )


def scale_turns(stage: config.StageConfig, recipe: Recipe) -> config.StageConfig:
    """ScalingInter: the cap of turns grows with the iterations."""
    return dataclasses.replace(stage, max_turns=recipe.scaling_turns)


def make_run(
    name: str,
    recipes: dict[str, Recipe],
    stages: tuple[config.StageConfig, ...],
    *,
    test_turns: int | None = None,
) -> config.RunConfig:
    """A run on eight GPUs of 80 GB; README.md has the fields for other machines.

    Args:
      name: of the run.
      recipes: of a source; the run plays all environments that the stages name.
      stages: one after the other.
      test_turns: the cap of turns in evaluations; None leaves it as in training.
    """
    played = {env for stage in stages for env, _ in stage.mixture.environments}
    tested = set(STUDY) if recipes is STUDY else played
    width = max(stage.rollout.max_tokens for stage in stages)
    return config.RunConfig(
        name=name,
        environments={
            env: base.EnvConfig("agentgym", max_turns=recipes[env].turns)
            for env in recipes
            if env in tested
        },
        model=presets.get("qwen2.5-7b"),
        tokenizer=config.TokenizerConfig(frame="agentgym"),
        stages=stages,
        evaluation=config.EvaluationConfig(
            samples=8,
            max_turns=test_turns,
            rollout=dataclasses.replace(
                stages[0].rollout, max_tokens=width, cache_buckets=_columns(width)
            ),
        ),
        learner=config.LearnerConfig(
            row_tokens=width,
            rows_per_microbatch=8,
            max_microbatches=80,  # as many as a minibatch has episodes, and some
            remat="full",
        ),
        mesh=config.MeshConfig(fsdp=8),
        num_env_workers=16,
        save_every=25,
    )


def _roll_out(recipe: Recipe) -> config.RolloutConfig:
    width = recipe.prompt_tokens + recipe.response_tokens
    return config.RolloutConfig(
        tasks_per_iteration=recipe.tasks,
        group_size=recipe.group_size,
        max_tokens=width,
        max_action_tokens=recipe.action_tokens,
        cut_actions="play",
        num_slots=128,
        num_cohorts=2,
        append_buckets=_APPEND,
        cache_buckets=_columns(width),
    )


def _columns(width: int) -> tuple[int, ...]:
    """Lengths of the cache up to the longest episode."""
    return (*(columns for columns in (1024, 2048, 4096) if columns < width), width)
