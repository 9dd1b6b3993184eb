"""What supervised stages learn from: demonstrations of oracles, and conversations."""
