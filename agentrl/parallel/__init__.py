"""Meshes, sharding, processes, and PRNG keys that all processes agree on."""
