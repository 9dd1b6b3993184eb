"""What the nodes of a study have found: results cell by cell, and tables of them."""
