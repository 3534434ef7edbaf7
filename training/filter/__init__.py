"""The data filter: pairs that a vision model scores highly enough stay in the training set (paper, appendix B)."""
