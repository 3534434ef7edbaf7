"""Repairs: a clip is damaged as a motion pretext task does it, the model repairs it; both are measured and shown."""
