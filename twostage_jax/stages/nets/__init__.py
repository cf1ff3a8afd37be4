"""Linen encoders, decoders and heads."""
