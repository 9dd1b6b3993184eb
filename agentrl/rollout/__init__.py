"""Rollouts: task sampling, the inference engine, and the collection of trajectories."""
