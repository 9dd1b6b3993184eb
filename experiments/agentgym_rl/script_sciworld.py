"""AgentGym-RL's script on SciWorld: GRPO from an instructed model."""

from agentrl import config
from agentrl.experiments.agentgym_rl import protocol


def get_config() -> config.RunConfig:
    """The protocol, on eight GPUs; README.md has other machines."""
    stage = protocol.train("sciworld", protocol.SCRIPT, "sciworld")
    return protocol.make_run("script_sciworld", protocol.SCRIPT, (stage,))
