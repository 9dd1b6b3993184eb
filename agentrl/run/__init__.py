"""What a run is made of: its parts, stages, checkpoints, evaluation, exports."""
