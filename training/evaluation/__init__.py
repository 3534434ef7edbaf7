"""The held-out benchmark: its cases, its measures, its tables. `training.evaluate` is its command line."""
