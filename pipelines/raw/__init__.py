"""What people have: the data sets, and readers of their raw files."""
