"""Studies: many runs of one grid, what they took, and what follows from them."""
