"""From trajectories to gradients."""
