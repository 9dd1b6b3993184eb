"""Episodes that wait between iterations, and how a checkpoint holds them."""
