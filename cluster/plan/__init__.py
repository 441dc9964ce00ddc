"""What a run will take before it is begun: memory by part, time by part, cost."""
