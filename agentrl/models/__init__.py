"""Transformers in Flax NNX; other rooms see pure functions, never an `nnx.Module`."""
