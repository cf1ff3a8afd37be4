"""Read TensorFlow Datasets, without TensorFlow where possible.

prepare.py   find a prepared folder, or let TFDS prepare one
prepared.py  read a prepared folder
records.py   read the records of its files
"""
