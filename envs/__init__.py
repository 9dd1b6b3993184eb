"""Text environments. Nothing here imports JAX or `agentrl`: workers start by the hundred."""
