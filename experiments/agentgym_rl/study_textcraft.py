"""The study on TextCraft: trained on it alone, tested on all five environments."""

from agentrl import config
from agentrl.experiments.agentgym_rl import protocol


def get_config() -> config.RunConfig:
    """The protocol, on eight GPUs; README.md has other machines."""
    stage = protocol.train("textcraft", protocol.STUDY, "textcraft")
    return protocol.make_run(
        "study_textcraft",
        protocol.STUDY,
        (stage,),
        test_turns=protocol.STUDY_TEST_TURNS,
    )
