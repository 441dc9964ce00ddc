"""Running it: configuration, engine, training loop, checkpoints, command line."""

import os

# Idle OpenMP threads spin for long by default. Beside other busy processes that turned a training step of 1.5 s into
# 20 s; not spinning at all took the quick start on two free cores from 363 to 160 images/s. With 10,000 turns it ran at
# 318 to 370. It counts only if it is set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
