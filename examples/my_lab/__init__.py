"""What a laboratory adds to tdformer: `plugins: [./my_lab]` imports it, and each module registers what it has."""

from . import data, figures, hooks, models, optimizers, policies, schedules  # noqa: F401
