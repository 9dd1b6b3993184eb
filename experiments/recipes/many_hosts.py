r"""Many hosts: the same command on each, a directory that all of them share.

  agentrl train recipes/many_hosts --workdir=/shared/many \
      --coordinator=HOST0:8476 --num_hosts=2 --host_index=0      # on the first
  agentrl train recipes/many_hosts --workdir=/shared/many \
      --coordinator=HOST0:8476 --num_hosts=2 --host_index=1      # on the second

Two processes in the place of two hosts, one core each of 2 CPU cores (2.5 GHz x86-64),
2026-11-27, commit `fa019b3`: 4:45 with compilation; after four iterations of GRPO
20.2 [10.9, 34.3] % of 31 held-out TextCraft tasks.

Each host plays its share of the episodes with environments of its own; the learner's mesh
covers all devices, here with one copy of the parameters sharded over two (`fsdp`). TPU
pods and Slurm need no flags: `agentrl launch` starts them, docs/howto_pod.md says how.
"""

import dataclasses

from agentrl import config
from agentrl.experiments.recipes import small


def get_config() -> config.RunConfig:
    """TextCraft, as in `one_environment`, on one device of each of two hosts."""
    reinforce = config.StageConfig(
        name="grpo",
        mixture=small.mixture("textcraft"),
        num_iterations=4,
        rollout=small.SHORT,
        algorithm=config.Grpo(clip_high=0.28),
        optimizer=config.OptimizerConfig(learning_rate=3e-4, warmup_steps=2),
    )
    return dataclasses.replace(
        small.run("many_hosts", small.warm_start("textcraft"), reinforce),
        mesh=config.MeshConfig(fsdp=2),
        num_env_workers=1,  # of each host
    )
