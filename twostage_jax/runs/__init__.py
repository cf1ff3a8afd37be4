"""The two-stage run. Only this room reads the fields of a config.

run.py       `ts.run`: both stages from top to bottom
steps.py     stage 1, features, stage 2
complete.py  a complete run that is resumed
prepare.py   from a request to a plan: data, networks, trials
reading.py   data of a run, in the form that its encoder takes
build.py     from a config to modules, stages and heads
networks.py  modules, stages and heads of a run, and the shapes of their parameters
views.py     augmentation of stage 1, by name or chosen from the images
own_code.py  a user's own modules and functions
trials.py    trainings of encoders and heads: seeds × points of a sweep
examples.py  examples and labels of each trial
handover.py  member axes: of stages, of the hand-over, of what users see
plan.py      a request with everything resolved
announce.py  lines at the start of a run
programs.py  everything that is compiled
specs.py     shapes of the examples that stages are traced with
abstract.py  examples of stage 2 before there are features
prepared.py  heads that see all training images
solve.py     a solved head to its end
train.py     one stage to its end, with checkpoints, records and signals
track.py     `on_epoch` and the files of TensorBoard
finish.py    choice on validation, measurement on test
transductive.py  scores on training images that a head has seen without their labels
result.py    `ts.Result`, and `result.json` as dataclasses
resume.py    a stopped run: its config, allowed and refused changes
open.py      `ts.open_run`: a run, verified
opened.py    `ts.Run`: what an opened run has and predicts
images.py    images of users, as the network takes them
sources.py   data that a finished run is evaluated on
evaluate.py  `twostage evaluate`
describe.py  `twostage data`
pictures.py  pictures of a run
material.py  arrays of the page of a run
outputs.py   everything that a run draws at its end
preview.py   predictions after each epoch of stage 2
report.py    the page of a run, and `twostage report`
clock.py     seconds of each phase
"""
