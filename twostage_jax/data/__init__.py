"""Readers of users' files: uint8 images and labels on the host, split and fingerprinted."""
