"""What is fuzzed; `scripts/fuzz.py` is the way in."""
