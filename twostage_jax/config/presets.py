"""Presets: default values for everything that is not given.

- `blog` is the recipe of the blog's program: widths 784-256-128 with a mirrored decoder, a head
  128-64-10, Adam at 0.001, batches of 32, five epochs per stage, PyTorch's initial values. It is
  the default for 28×28 images.
- `quick` is for small data sets, on which five epochs are only a few hundred steps: 20 epochs per
  stage, LeCun-normal initial values.
- `few-labels` pretrains a small convolutional network on two random views of each image
  (`simclr-iic`), with AdamW and a cosine schedule. Its head spreads the labels over a graph of
  neighbours.
- `few-labels-gpu` does the same in larger batches and for longer.
- `noisy-labels` has the stage 1 of `few-labels`. Its head smooths all labels over the graph, so a
  wrong label is outvoted by its neighbours.
- `photos` is the default for images in colour or larger than 28×28.

Each table has the default of one field by preset. `others` stands for all presets that are not
named.
"""

PRESETS = (
    "blog",
    "quick",
    "few-labels",
    "few-labels-gpu",
    "noisy-labels",
    "photos",
)

INIT = {"blog": "torch", "others": "lecun"}
OBJECTIVE = {"blog": "autoencoder", "quick": "autoencoder", "others": "simclr-iic"}
ENCODER = {"blog": "mlp", "quick": "mlp", "others": "conv"}
PROTOCOL = {
    "blog": "mlp",
    "quick": "mlp",
    "few-labels": "propagate",
    "few-labels-gpu": "propagate",
    "noisy-labels": "propagate",
    "others": "linear",
}
# The others leave the default to the head.
METHOD = {"noisy-labels": "zhou", "others": None}
CLASS_SIZES = {"noisy-labels": "labels", "others": None}
# Generalised cross-entropy, for a head that is trained.
LOSS = {"noisy-labels": "gce", "others": None}

EPOCHS = {"blog": 5, "quick": 20}
# The others have a number of steps in each stage, so that a small set is not trained too briefly
# and a large one not for hours: `epochs.resolve_epochs` derives the epochs.
STEPS = {"few-labels": 3870, "few-labels-gpu": 5400, "noisy-labels": 3870, "photos": 2580}
MOST_EPOCHS = 300  # a bound on the time of small sets; not measured
LEAST_STEPS = 500  # on tiny sets, even if that means more epochs
BATCH_SIZES = {"blog": 32, "quick": 32, "few-labels-gpu": 1024, "photos": 64, "others": 256}
RATES = {"blog": 0.001, "quick": 0.001, "others": 0.002}
DECAYS = {"blog": 0.0, "quick": 0.0, "others": 0.0001}
BETAS = {"blog": 0.999, "quick": 0.999, "others": 0.99}
DECAYED = {"blog": "all", "quick": "all", "others": "matrices"}
SCHEDULE = {"blog": "constant", "quick": "constant", "others": "cosine"}
WATCHED = {"blog": "off", "quick": "off", "others": "on"}
WARMUP = {"blog": 0, "quick": 0, "others": 200}
