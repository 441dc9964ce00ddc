"""What a spiking network does and costs: measured from outside, without changing the model."""

from .firing import Firing, measure_firing, spiking
from .memory import Cost, LiveBytes, live_bytes, measure_step

__all__ = ["Cost", "Firing", "LiveBytes", "live_bytes", "measure_firing", "measure_step", "spiking"]
