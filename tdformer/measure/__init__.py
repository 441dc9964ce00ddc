"""What a spiking network does: measured from outside, without changing the model."""

from .firing import firing_rates, spiking

__all__ = ["firing_rates", "spiking"]
