"""AgentGym-RL's script on SearchQA: GRPO from an instructed model."""

from agentrl import config
from agentrl.experiments.agentgym_rl import protocol


def get_config() -> config.RunConfig:
    """The protocol, on eight GPUs; README.md has other machines."""
    stage = protocol.train("searchqa", protocol.SCRIPT, "searchqa")
    return protocol.make_run("script_searchqa", protocol.SCRIPT, (stage,))
