"""Decides which pixels of a result are the edit's and which the source's, and restores the source's detail."""
