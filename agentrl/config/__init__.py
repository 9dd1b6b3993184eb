"""Configuration of a run: frozen dataclasses, checked before any device is touched.

Experiment files need one import, `from agentrl import config`.
"""

from agentrl.config.algorithm_configs import (
    AlgorithmConfig,
    Cispo,
    Dapo,
    Distillation,
    DrGrpo,
    Gigpo,
    Grouped,
    Grpo,
    Gspo,
    KLConfig,
    PolicyGradient,
    Ppo,
    ReinforcePP,
    Rloo,
    Supervised,
)
from agentrl.config.run import (
    EvaluationConfig,
    LearnerConfig,
    MeshConfig,
    RunConfig,
    TokenizerConfig,
)
from agentrl.config.stage import (
    MixtureConfig,
    OptimizerConfig,
    RehearsalConfig,
    RolloutConfig,
    StageConfig,
)

__all__ = [
    "AlgorithmConfig",
    "Cispo",
    "Dapo",
    "Distillation",
    "DrGrpo",
    "EvaluationConfig",
    "Gigpo",
    "Grouped",
    "Grpo",
    "Gspo",
    "KLConfig",
    "LearnerConfig",
    "MeshConfig",
    "MixtureConfig",
    "OptimizerConfig",
    "PolicyGradient",
    "Ppo",
    "RehearsalConfig",
    "ReinforcePP",
    "Rloo",
    "RolloutConfig",
    "RunConfig",
    "StageConfig",
    "Supervised",
    "TokenizerConfig",
]
