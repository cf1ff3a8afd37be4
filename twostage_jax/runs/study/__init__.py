"""Studies: many small trainings that answer one question, with controls and intervals.

`start` (from a command to a finished folder), `sources` (data, encoder and frozen features),
`cells` (parts that are computed once and kept), `context` (all that the function of a study gets),
`folder` (study.json, locked and resumed); `labels` (error against the number of labels), with
`arms`, `draws`, `budget` (draws of end-to-end arms), `group`, `groups` and `training_groups` (arms
that are computed together), `solved`, `on_graph` and `trained` (how).
"""
