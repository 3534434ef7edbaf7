"""Training of SAMA: data, stages and the loop."""
