"""Configurations of runs, and what came out."""
