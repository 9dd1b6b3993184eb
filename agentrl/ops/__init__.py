"""Pure array functions. Nothing here imports another part of the library."""
