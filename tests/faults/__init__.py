"""Faults done to real runs; `scripts/torture.py` is the way in."""
