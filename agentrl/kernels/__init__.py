"""Pallas kernels for TPUs; what surrounds them, and other platforms, is in `models`."""
