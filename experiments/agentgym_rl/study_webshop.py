"""The study on WebShop: trained on it alone, tested on all five environments."""

from agentrl import config
from agentrl.experiments.agentgym_rl import protocol


def get_config() -> config.RunConfig:
    """The protocol, on eight GPUs; README.md has other machines."""
    stage = protocol.train("webshop", protocol.STUDY, "webshop")
    return protocol.make_run(
        "study_webshop",
        protocol.STUDY,
        (stage,),
        test_turns=protocol.STUDY_TEST_TURNS,
    )
