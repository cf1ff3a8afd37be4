"""Training and applying a stage, without configs, folders or a screen."""
