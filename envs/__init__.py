"""Text environments. Nothing here imports JAX or `agentrl`."""
