"""Ways to sample an edit with fewer evaluations of the model: their speed, and what they lose."""
