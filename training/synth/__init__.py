"""The paired-edit generator behind the tiny model."""
