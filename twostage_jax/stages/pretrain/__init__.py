"""Stage-1 objectives: functions that return a `Stage`. Only `supervised` reads labels.

Files: reconstruction, masked, vae, two_views, contrastive, variance, jepa, supervised, placeholder.
"""
