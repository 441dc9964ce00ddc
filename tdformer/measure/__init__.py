"""What a spiking network does and costs: measured from outside, without changing the model."""

from .calls import Call, Calls
from .firing import Firing, measure_firing, measure_rates, spiking
from .information import Information, mutual_information, off_diagonal
from .memory import Cost, LiveBytes, Work, live_bytes, measure_evaluation, measure_step
from .operations import Counted, Row, count
from .rated import Rated, measure_rated
from .spikes import record_outputs, spikes_of

__all__ = [
    "Call",
    "Calls",
    "Cost",
    "Counted",
    "Firing",
    "Information",
    "LiveBytes",
    "Rated",
    "Row",
    "Work",
    "count",
    "live_bytes",
    "measure_evaluation",
    "measure_firing",
    "measure_rated",
    "measure_rates",
    "measure_step",
    "mutual_information",
    "off_diagonal",
    "record_outputs",
    "spikes_of",
    "spiking",
]
