"""Runs while they grow, in a browser: `agentrl watch`."""
