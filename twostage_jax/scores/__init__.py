"""Figures from probabilities and labels.

Files: metrics, figures, calibration, conformal, detection.
"""
