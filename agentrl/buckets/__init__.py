"""Runs in object stores: a local copy of the run, and what keeps both the same."""
