"""AgentGym-RL's paper on TextCraft: GRPO from an instructed model."""

from agentrl import config
from agentrl.experiments.agentgym_rl import protocol


def get_config() -> config.RunConfig:
    """The protocol, on eight GPUs; README.md has other machines."""
    stage = protocol.train("textcraft", protocol.PAPER, "textcraft")
    return protocol.make_run("paper_textcraft", protocol.PAPER, (stage,))
