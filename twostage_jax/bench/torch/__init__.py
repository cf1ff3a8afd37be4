"""The PyTorch programs, run in their own processes: `pytorch` and `members`. They import no jax."""
