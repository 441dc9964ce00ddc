"""What a trained run gives: its evaluation, and files for others."""
