"""Folders of runs: atomic files, typed records, checksums, checkpoints and a lock.

layout.py      names of files, and new, free and leftover folders
atomic.py      files that are written completely or not at all
decoding.py    JSON values to dataclasses and back, with one check of types
records.py     dataclasses for the manifest and the result
epochs.py      dataclasses for the figures of epochs
checksums.py   SHA256SUMS of a finished run
checkpoint.py  verified checkpoints of a stage
table.py       the sealed table of a checkpoint
orbax.py       the only importer of Orbax
lock.py        one process at a time in a folder
"""
