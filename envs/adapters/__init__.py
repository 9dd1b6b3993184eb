"""Environments that other systems run, played through this package's contract."""
