"""Data of the trainer: rendered groups, latents and their batches."""
