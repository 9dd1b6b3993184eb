"""LoRA: adapters on a policy that was trained before, here on another environment.

  agentrl train recipes/one_environment --workdir=runs/one
  agentrl train recipes/lora --start_from=runs/one --workdir=runs/lora

Seen: 5.0 % [1.6, 14.6] of held-out tasks (40 tasks, 4 samples; one seed) after 204 s on 2
CPU cores that had other work; 2026-11-27, commit 85278ae. That is little: adapters of a
model of a million parameters whose vocabulary knows TextCraft's words only. The recipe
shows the settings; `experiments/smollm2` has adapters that learn.

With a published model in the place of a run: `--model=Qwen/Qwen2.5-0.5B-Instruct`
(`experiments/smollm2` has one with figures). `agentrl convert --to_hf=... --adapter`
writes the adapters alone, for `peft`.
"""

from agentrl import config
from agentrl.experiments.recipes import small
from agentrl.models.model_config import LoraConfig


def get_config() -> config.RunConfig:
    """BabyAI after TextCraft, all but the adapters frozen."""
    demonstrations = small.warm_start("babyai", num_iterations=40)
    reinforce = config.StageConfig(
        name="grpo",
        mixture=small.mixture("babyai"),
        num_iterations=6,
        rollout=small.ROLLOUT,
        algorithm=config.Grpo(clip_high=0.28),
        # Adapters take about ten times the rate of all parameters.
        optimizer=config.OptimizerConfig(learning_rate=2e-3, warmup_steps=2),
    )
    return small.run(
        "lora", demonstrations, reinforce, lora=LoraConfig(rank=16, alpha=32.0)
    )
