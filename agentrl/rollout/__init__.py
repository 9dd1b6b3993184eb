"""Rollouts: the mixture of tasks, episodes in slots, and what they leave behind."""
