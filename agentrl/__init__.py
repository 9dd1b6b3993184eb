"""Reinforcement fine-tuning of language-model agents over text environments, in JAX."""

__version__ = "0.1.0"
