"""The folder of a run: who writes it, its rows, checkpoints, and what it tells."""
