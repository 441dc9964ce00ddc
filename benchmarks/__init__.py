"""Each claim of speed, memory or accuracy, as something that anyone can run."""
