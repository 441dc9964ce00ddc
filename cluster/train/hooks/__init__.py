"""What goes on beside training: a registry, and a file for each hook."""

from . import alarms, clock, ema, energy, firing, health, limits, profile, speed, tensorboard, wandb  # noqa: F401 - they register themselves
from .chosen import Hooks, chosen
from .hook import HOOKS, Hook, Training

__all__ = ["HOOKS", "Hook", "Hooks", "Training", "chosen"]
