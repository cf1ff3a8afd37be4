"""Names that a config can choose from, and the fields that belong to one choice."""

# A test compares these names with the functions in `stages`, which this room must not import.
OBJECTIVES = (
    "autoencoder",
    "placeholder",
    "denoising",
    "masked",
    "vae",
    "simclr",
    "simclr-iic",
    "vicreg",
    "lejepa",
    "supervised",
)
SUPERVISED = ("supervised",)  # objectives that train on the labelled images alone
ENCODERS = (
    "mlp",
    "conv",
    "resnet",
    "vit",
)
NORMS = ("batch", "group")
LOSSES = ("cross-entropy", "gce", "elr", "forward")
# Protocols that are computed in one call: no epochs, no steps.
SOLVED = (
    "linear",
    "ridge",
    "knn",
    "knn-reliable",
    "prototype",
    "propagate",
)
PROTOCOLS = ("mlp", "finetune", *SOLVED)
METHODS = ("auto", "zhou", "poisson", "poisson-mbo")
# Fields that belong to one encoder, with their defaults.
ENCODER_DEFAULTS: dict[str, dict[str, object]] = {
    "mlp": {"widths": (256, 128)},
    "conv": {"widths": (64, 64, 128, 256), "norm": "batch"},
    "resnet": {"widths": (32, 64, 128, 256), "norm": "group"},
    "vit": {"widths": (64, 64, 64, 128)},
}
ENCODER_FIELDS = ("widths", "norm", "patch")
ENCODE = ("auto", "once", "loop")
DECAY_ON = ("all", "matrices")
SCHEDULES = ("constant", "cosine")
WATCH = ("on", "off")
SELECT = ("last", "probe")
INITS = ("torch", "lecun")
SHARE = ("encoder", "order")
CLASS_WEIGHTS = ("none", "auto")
# Solved protocols that class weights change in a meaningful way.
WEIGHTED = ("linear", "ridge", "knn")
DUPLICATES = ("auto", "exact", "near")
AUGMENTATIONS = (
    "none",
    "handwriting",
    "objects",
    "photographs",
)
NOT_COMPUTED = ("out", "save_predictions", "cache_dir")  # fields about files; they change no result
