"""Probabilities and labels in, figures out."""
