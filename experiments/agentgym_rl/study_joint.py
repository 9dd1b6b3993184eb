"""The study's joint training: five environments at the same time."""

from agentrl import config
from agentrl.experiments.agentgym_rl import protocol


def get_config() -> config.RunConfig:
    """The protocol, on eight GPUs; README.md has other machines."""
    stage = protocol.train("joint", protocol.STUDY, *protocol.STUDY)
    return protocol.make_run(
        "study_joint",
        protocol.STUDY,
        (stage,),
        test_turns=protocol.STUDY_TEST_TURNS,
    )
