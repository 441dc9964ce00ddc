"""What holds on a GPU, in one command of at most five minutes: see `__main__`."""
