"""The scale of arXiv 2603.12011: Qwen2.5-Instruct, with the settings known of it."""

from agentrl import config
from agentrl.envs import base
from agentrl.experiments.generalization import scale
from agentrl.pretrained import presets

# Paper: turn limits in training, 20 turns in tests, groups of 8, 8,192 tokens. Which
# limit is whose environment's is inferred from the order in which the paper lists them.
# Optimizer, KL and batch are those of AgentGym-RL (2509.08755), whose framework it names.

_TURNS = {
    "webshop": 10,
    "searchqa": 5,
    "textcraft": 30,
    "alfworld": 10,
    "babyai": 15,
}


def paper(environments: tuple[str, ...]) -> scale.Scale:
    """Returns the scale of the paper, as far as it is known."""
    room = config.RolloutConfig(
        tasks_per_iteration=32,
        group_size=8,
        max_tokens=8192,
        max_action_tokens=512,
        num_slots=256,
        num_cohorts=2,
        append_buckets=(64, 256, 1024),
        cache_buckets=(2048, 4096, 8192),
        row_buckets=(64,),
    )
    evaluation = config.EvaluationConfig(
        samples=8, before_training=True, random_policy=False, rollout=room
    )
    return scale.Scale(
        base=config.RunConfig(
            name="paper",
            stages=(),
            environments={
                env: base.EnvConfig(profile="agentgym", max_turns=_TURNS[env])
                for env in environments
            },
            model=presets.get("qwen2.5-3b"),
            tokenizer=config.TokenizerConfig(frame="agentgym"),
            evaluation=evaluation,
            mesh=config.MeshConfig(fsdp=8),
            learner=config.LearnerConfig(
                row_tokens=8192,
                rows_per_microbatch=8,
                max_microbatches=64,
                remat="full",
            ),
            num_env_workers=16,
            save_every=25,
        ),
        warm_start=None,
        room=lambda _: room,
        algorithm=config.Grpo(
            kl=config.KLConfig(coefficient=0.001), entropy_coefficient=0.001
        ),
        optimizer=config.OptimizerConfig(learning_rate=1e-6),
        num_iterations=100,
        tier="all",
        trained={},
        difficulty={env: {} for env in environments},
        difficulty_evaluation=evaluation,
        listed={"babyai": 1, "alfworld": 1},
        test_turns=20,
        note=(
            "Paper scale: Qwen2.5-Instruct without a warm start, the published turn "
            "limits, groups of 8 and 8,192 tokens; policies are tested with the trained "
            "limit and with 20 turns."
        ),
    )
