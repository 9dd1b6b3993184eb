"""Results of evaluations, and the intervals and differences made of them."""
