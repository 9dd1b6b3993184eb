"""The study's sequence: five environments one after the other, tested after each."""

from agentrl import config
from agentrl.experiments.agentgym_rl import protocol


def get_config() -> config.RunConfig:
    """The protocol, on eight GPUs; README.md has other machines."""
    stages = tuple(protocol.train(env, protocol.STUDY, env) for env in protocol.STUDY)
    return protocol.make_run(
        "study_sequence",
        protocol.STUDY,
        stages,
        test_turns=protocol.STUDY_TEST_TURNS,
    )
