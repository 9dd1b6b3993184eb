"""Inference: prefill, decoding and sampling on a key-value cache."""
