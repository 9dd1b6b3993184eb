"""Studies: many chains of stages that share their work, and one page of what they found."""
