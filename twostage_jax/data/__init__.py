"""Read files of users into uint8 images and labels on the host, split and fingerprinted.

Files: spec (the grammar of `--data`), sources (`load`), dataset, split, labels; for the formats
digits, idx, npz, images and tfds; and arrays, which checks the content of arrays.
"""
