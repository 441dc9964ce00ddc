"""Firing rates: of each unit over all neurons, of each image, and the channels that are silent."""

from __future__ import annotations

import pytest
import torch

from tdformer.measure import measure_firing, measure_rates


def test_firing_rates_are_the_mean_spikes_of_every_unit(tiny, calibrate, spikes_of) -> None:
    model = tiny("tiny_spikformer", segments=2, feedback="all")
    other, x = torch.rand(8, 3, 16, 16, dtype=torch.float64), torch.rand(3, 3, 16, 16, dtype=torch.float64)
    calibrate(model, other)
    with measure_firing(model) as firing, torch.no_grad():
        assert firing == {}
        model(x)
    with measure_rates(model) as each, torch.no_grad():
        model(x)
    assert each.keys() == firing.keys()
    _, spikes = spikes_of(model, x)
    for name, s in spikes.items():
        torch.testing.assert_close(each[name], s.transpose(0, 1).flatten(1).mean(1).float())
        assert firing[name].rate == pytest.approx(s.mean().item(), abs=1e-6)
        silent = (s.transpose(0, 2).flatten(1) == 0).all(1)
        assert firing[name].silent == pytest.approx(silent.float().mean().item(), abs=1e-6)
    assert any(".control." in name for name in firing) and any(0 < f.silent < 1 for f in firing.values())
    rates = [f.rate for f in firing.values()]
    assert all(0 <= r <= 1 for r in rates) and 0.02 < sum(rates) / len(rates) < 0.98
    before = dict(firing)
    with torch.no_grad():
        model(other)
    assert firing == before  # the hooks are gone
    assert not any(m._forward_hooks for m in model.modules())
