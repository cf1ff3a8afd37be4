"""Functions that return a `Stage` or a `Head`, and the Linen modules they use."""
