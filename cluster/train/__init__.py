"""Training: the loop, the engine, and what watches them."""
