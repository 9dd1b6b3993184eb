"""The compiled programs of a run: what they take, what they cost, how long they need."""
