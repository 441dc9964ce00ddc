"""From a configuration to the parts of a run: data, model, device, memory, recomputation."""
