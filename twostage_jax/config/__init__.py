"""Settings of runs and studies, flags and commands, without jax.

fields.py    the declaration of a field: default by preset, check, sweepability
settings.py  base class of the configurations
choices.py   names that a config can choose from
groups.py    the groups `pretrain` and `head`, as frozen dataclasses
reading.py   fields about how a source is read
schema.py    the whole configuration, as a frozen dataclass
options.py   fields that a function requests by a parameter name
studies.py   flags of the studies
flags.py     flags that several commands share
presets.py   default values by preset
sweep.py     swept scalars and the points of the grid
rules.py     `check`: all values, and the rules between fields
layers.py    flags, files and presets on top of each other
page.py      the text of `help(ts.Config)`
parse.py     parsing of the command line
commands.py  the commands of the command line
"""
