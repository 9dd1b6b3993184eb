"""What the machine is, and how much of it is used."""
