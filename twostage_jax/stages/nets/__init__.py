"""Linen modules for encoders, decoders, projectors and heads.

Files: mlp, conv, patches, norm, projector.
"""
