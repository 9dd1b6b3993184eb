r"""The whole system on a laptop: one small model, four stages, two real environments.

  python -m agentrl.launch.train --config=experiments/demo/demo.py --workdir=runs/demo

A model of about a million parameters starts from random weights with induction heads. It
is warm-started on demonstrations of text-only oracles, fine-tuned with GRPO on TextCraft,
then on BabyAI, then on a mixture of both, and evaluated on held-out tasks after every
stage. Reinforcement is on other kinds of tasks than demonstrations, and the evaluation on
held-out ones of its kinds: in TextCraft goals with one recipe after demonstrations of two,
in BabyAI eight levels of going somewhere after one of fetching things and one that mixes
fetching, opening and going.
"""

import dataclasses

from agentrl import config
from agentrl.envs import base
from agentrl.models.model_config import ModelConfig

# Contexts are kept short, as befits the model: no recipes that do not help, no action
# list, which BabyAI would repeat with every observation.
ENVIRONMENTS = {
    "textcraft": base.EnvConfig(options={"distractors": 0}, max_turns=8),
    "babyai": base.EnvConfig(list_actions="never", max_turns=6),
}
ROLLOUT = config.RolloutConfig(
    tasks_per_iteration=32,
    group_size=8,
    max_tokens=384,
    max_action_tokens=26,
    num_slots=64,
    append_buckets=(32, 64, 128),
    cache_buckets=(128, 192, 256, 384),
)
# Less room for TextCraft's short tasks: an episode that rambles fails sooner.
SHORT = dataclasses.replace(ROLLOUT, max_tokens=160, cache_buckets=(96, 160))
DEMONSTRATED = ("textcraft/depth_2", "babyai/Pickup", "babyai/ActionObjDoor")
TRAINED = ("textcraft/depth_1", "babyai/GoTo")
WARM_START = config.StageConfig(
    name="warm_start",
    mixture=config.MixtureConfig(
        environments=(("textcraft", 5.0), ("babyai", 1.0)),
        tier="easy",
        subsets=DEMONSTRATED,
    ),
    num_iterations=150,
    rollout=ROLLOUT,
    optimizer=config.OptimizerConfig(learning_rate=3e-3, warmup_steps=20),
    # Under other names, too: the model is to copy names, not to know them.
    algorithm=config.Supervised(
        demonstrations=300,
        episodes_per_step=40,
        thoughts=False,
        renamed_copies=(("textcraft", 8),),
    ),
)


def reinforce(
    name: str,
    *environments: str,
    num_iterations: int,
    learning_rate: float = 3e-4,
    rollout: config.RolloutConfig = ROLLOUT,
) -> config.StageConfig:
    """A stage of GRPO on the tasks that the evaluation's are like."""
    return config.StageConfig(
        name=name,
        mixture=config.MixtureConfig(
            environments=tuple((env, 1.0) for env in environments),
            tier="easy",
            subsets=TRAINED,
        ),
        num_iterations=num_iterations,
        rollout=rollout,
        # As published, with clip-higher: each trajectory weighs the same, so that the
        # long, failed ones do not drown the short, solved ones.
        algorithm=config.Grpo(clip_high=0.28),
        optimizer=config.OptimizerConfig(learning_rate=learning_rate, warmup_steps=2),
    )


def get_config() -> config.RunConfig:
    """The demo's configuration."""
    return config.RunConfig(
        name="demo",
        environments=ENVIRONMENTS,
        model=ModelConfig(
            vocab_size=1024,
            num_layers=2,
            mlp_size=512,
            tied_embeddings=False,
            init="induction",
        ),
        tokenizer=config.TokenizerConfig(vocab_size=1024),
        evaluation=config.EvaluationConfig(
            tier="easy", subsets=TRAINED, samples=8, rollout=ROLLOUT
        ),
        mesh=config.MeshConfig(cpu_devices=2),
        learner=config.LearnerConfig(
            row_tokens=384, rows_per_microbatch=4, max_microbatches=96
        ),
        stages=(
            WARM_START,
            reinforce("textcraft", "textcraft", num_iterations=48, rollout=SHORT),
            reinforce("babyai", "babyai", num_iterations=16, learning_rate=5e-4),
            reinforce("mixture", "textcraft", "babyai", num_iterations=20),
        ),
        save_every=10,
    )
