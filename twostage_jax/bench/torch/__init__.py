"""The PyTorch programs, run in their own processes: `network`, `pytorch`, `members`. No jax."""
