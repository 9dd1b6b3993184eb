"""AgentGym-RL's script on BabyAI: GRPO from an instructed model."""

from agentrl import config
from agentrl.experiments.agentgym_rl import protocol


def get_config() -> config.RunConfig:
    """The protocol, on eight GPUs; README.md has other machines."""
    stage = protocol.train("babyai", protocol.SCRIPT, "babyai")
    return protocol.make_run("script_babyai", protocol.SCRIPT, (stage,))
