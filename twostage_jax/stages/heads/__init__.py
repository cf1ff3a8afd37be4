"""Stage-2 heads."""
