"""Fields, presets and commands, without jax."""
