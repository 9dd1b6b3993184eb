"""Whether a run fits, and what it will do, told before it starts."""
