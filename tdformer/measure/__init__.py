"""What a spiking network does and costs: measured from outside, without changing the model."""

from .firing import firing_rates, spiking
from .memory import Cost, LiveBytes, live_bytes, measure_step

__all__ = ["Cost", "LiveBytes", "firing_rates", "live_bytes", "measure_step", "spiking"]
