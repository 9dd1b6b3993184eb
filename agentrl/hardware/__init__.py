"""The device table, utilisation of the hardware, timers and the profiler."""
