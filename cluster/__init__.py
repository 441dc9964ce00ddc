"""Running it: configuration, engine, training loop, checkpoints, command line."""

import os

# Idle OpenMP threads spin by default. Where processes share cores that turns seconds into minutes (a training step on
# two busy cores: 1.5 s against 20 s), so let them sleep. It counts only if it is set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
