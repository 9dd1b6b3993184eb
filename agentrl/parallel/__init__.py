"""Devices, hosts and random numbers that they agree on."""
