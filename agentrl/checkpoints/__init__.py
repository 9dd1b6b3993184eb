"""What a run is resumed, evaluated and continued from."""
