"""What a model sees of a sample: boxes, frames, augmentation, mixing, corruption."""
