"""From text to trajectories: tasks are drawn, actions sampled, episodes played."""
