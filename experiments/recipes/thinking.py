"""A thinking model: thoughts with a budget, which later contexts leave out.

  agentrl train recipes/thinking --model=Qwen/Qwen3-0.6B --workdir=runs/thinking

Its result has not been measured yet: the weights need a GPU or TPU. Tests run it with a
random model that has Qwen3's chat template.

What the policy thinks is not shown to it again, as Qwen3's template renders it, so each
answer is a sequence of its own for the learner. docs/howto_thinking.md has the details.
"""

from agentrl import config
from agentrl.envs import base
from agentrl.models.model_config import LoraConfig
from agentrl.pretrained import presets

ROLLOUT = config.RolloutConfig(
    tasks_per_iteration=8,
    group_size=8,
    max_tokens=4096,
    max_action_tokens=640,
    max_thinking_tokens=512,  # then `</think>` is put in, and the answer goes on
    num_slots=32,
    append_buckets=(64, 256, 1024),
    cache_buckets=(1024, 2048, 4096),
)


def get_config() -> config.RunConfig:
    """TextCraft with the published instruction, adapters on Qwen3-0.6B."""
    environments = {
        "textcraft": base.EnvConfig(options={"distractors": 0}, max_turns=6)
    }
    reinforce = config.StageConfig(
        name="grpo",
        mixture=config.MixtureConfig(environments=(("textcraft", 1.0),), tier="easy"),
        num_iterations=30,
        rollout=ROLLOUT,
        # Each answer is a sequence here: an average over tokens does not let episodes
        # with more turns weigh more.
        algorithm=config.Grpo(clip_high=0.28, aggregation="token"),
        optimizer=config.OptimizerConfig(learning_rate=1e-4, warmup_steps=2),
    )
    return config.RunConfig(
        name="thinking",
        stages=(reinforce,),
        environments=environments,
        model=presets.get("qwen3-0.6b"),
        lora=LoraConfig(rank=16, alpha=32.0),
        tokenizer=config.TokenizerConfig(
            kind="huggingface",
            frame="agentgym",
            template_variables={"enable_thinking": True},
            past_reasoning="drop",
        ),
        evaluation=config.EvaluationConfig(
            tier="easy", samples=4, before_training=True, rollout=ROLLOUT
        ),
        learner=config.LearnerConfig(
            row_tokens=4096,
            rows_per_microbatch=8,
            # Up to six sequences an episode, each as long as its context.
            max_microbatches=64,
            remat="full",
        ),
    )
