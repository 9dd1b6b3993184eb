"""A model that says why episodes failed, and how far it agrees with rules and labels."""
