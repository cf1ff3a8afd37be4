"""The two-stage story: from a config to a result."""
