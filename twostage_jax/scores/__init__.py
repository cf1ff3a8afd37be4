"""Figures from probabilities and labels.

Files: metrics, figures, classes, sweep, calibration, conformal, detection, rejection, and others.
"""
