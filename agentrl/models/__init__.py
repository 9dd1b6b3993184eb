"""Transformers in Flax NNX. Nothing outside this folder sees a module."""
