"""Training and applying stages: no config, no folder, no screen.

device.py     the device, asked for before anything else
switches.py   settings of jax that change what is computed
state.py      TrainState: parameters, optimiser state, step
epoch.py      one step, one shuffle, one epoch as pure functions
train.py      `make_train`: a whole training as one pure function
loop.py       the host loop around compiled epochs
members.py    many trainings in one program
solve.py      heads that are computed in one call
placement.py  devices, and which arrays have a member axis
speed.py      members together or one after the other, as measured
memory.py     memory that members need, and how many fit
vmap.py       `ensemble`: `vmap` in chunks that fit
passes.py     a network applied to many images
predictor.py  trained trials that predict
compile.py    compiler options, compiling together, the cache of programs
health.py     parameters and metrics that are no longer finite
"""
