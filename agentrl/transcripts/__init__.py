"""Stored episodes: read again, and tagged with why they failed."""
