"""Linen modules for encoders, decoders, projectors and heads.

Files: mlp, conv, resnet, vit, decoders, projector; patches, norm.
"""
