"""Figures from probabilities and labels.

Files: metrics, figures, members, calibration, conformal, detection.
"""
