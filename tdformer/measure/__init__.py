"""What a spiking network does and costs: measured from outside, without changing the model."""

from .firing import Firing, measure_firing, measure_rates, spiking
from .flops import forward_flops
from .memory import Cost, LiveBytes, live_bytes, measure_step

__all__ = [
    "Cost",
    "Firing",
    "LiveBytes",
    "forward_flops",
    "live_bytes",
    "measure_firing",
    "measure_rates",
    "measure_step",
    "spiking",
]
