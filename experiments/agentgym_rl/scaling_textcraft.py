"""AgentGym-RL's ScalingInter on TextCraft: more turns as training goes on."""

from agentrl import config
from agentrl.experiments.agentgym_rl import protocol


def get_config() -> config.RunConfig:
    """The protocol, on eight GPUs; README.md has other machines."""
    recipe = protocol.SCRIPT["textcraft"]
    stage = protocol.train("textcraft", protocol.SCRIPT, "textcraft")
    stages = (protocol.scale_turns(stage, recipe),)
    return protocol.make_run("scaling_textcraft", protocol.SCRIPT, stages)
