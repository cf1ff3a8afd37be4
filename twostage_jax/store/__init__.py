"""A run's folder: atomic files, checksums, checkpoints."""
