"""Fixed task panels: how good a policy is, and how hard tasks are for it."""
