"""Stage-1 objectives."""
