"""Runs as processes and as jobs of Slurm."""
