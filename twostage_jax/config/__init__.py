"""Everything that a run can be asked for, without jax.

fields.py    the declaration of a field: type, default by preset, check, sweepability
values.py    checks of single values
schema.py    the configurations as frozen dataclasses
presets.py   default values of each preset
layers.py    flags, files and presets on top of each other
sweep.py     swept scalars and the points of the grid
rules.py     `check`: all values, and the rules between fields
commands.py  the commands of the command line
"""
