"""Experiment files, overrides, precision, and planning without devices."""
