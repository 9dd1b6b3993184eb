"""AgentGym-RL's paper on SciWorld: GRPO from an instructed model."""

from agentrl import config
from agentrl.experiments.agentgym_rl import protocol


def get_config() -> config.RunConfig:
    """The protocol, on eight GPUs; README.md has other machines."""
    stage = protocol.train("sciworld", protocol.PAPER, "sciworld")
    return protocol.make_run("paper_sciworld", protocol.PAPER, (stage,))
