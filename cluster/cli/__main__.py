"""`python -m cluster.cli`, where the command `tdformer` is not installed."""

from .app import main

main()
