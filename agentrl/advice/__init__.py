"""What sizes suit a model and the tasks of an environment."""
