"""Draws paired clips (source, target, instruction) for training and for the benchmark."""
