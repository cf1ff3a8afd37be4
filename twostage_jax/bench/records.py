"""Records of a benchmark, as `bench.json` holds them."""

from typing import TypedDict


class Measured(TypedDict, total=False):
    """One measurement of a row. Each program fills in the keys that it can measure."""

    cold: float  # seconds of the whole program in a fresh process
    warm_start: float  # the same with a filled compilation cache
    peak_bytes: int
    pretrain: list[float]  # seconds of each epoch
    head: list[float]
    encode: float  # seconds
    stage_2: float  # seconds from the first encoded image to the last step, checkpoints included
    compile: float
    compile_warm: float
    seconds: dict[str, float]  # all phases of one of our runs
    accuracy: float  # in [0, 1]; the mean of the members if there are several
    matrix_rates: tuple[float, float]  # operations per second, before and after the row
    matrix_rate: float  # their mean
    load: float | None  # load average of the last minute, before the row
    other_load: float | None  # percent of the processors that other processes used meanwhile
    share: float  # percent of that rate which a stage-1 epoch reaches
    # Rows of members only.
    sort: str
    members: int
    training: float  # seconds of both stages and the encoding, all members together
    member_bytes: float  # memory that each further member adds
    # Reported by the PyTorch programs and kept for readers of the file.
    losses: dict[str, list[float]]
    accuracies: list[float]
    device_bytes: int


class Rate(TypedDict):
    """Speed of large matrix products on a device."""

    rate: float  # floating-point operations per second
    device: str


class Tuning(TypedDict):
    """Result of trying several numbers of threads."""

    threads: int  # the fastest number
    seconds: dict[str, float]  # by number of threads


class Entry(TypedDict):
    """A row with all its measurements."""

    name: str
    title: str
    repetitions: list[Measured]


class Machine(TypedDict):
    """The machine that was measured."""

    cpu: str
    mhz: float | None  # frequency of a core at the start
    cores: int | None
    device: str
    load: float | None  # load average of the minute before the start


class Data(TypedDict):
    """The data set that was trained on."""

    name: str
    train: int  # number of training examples
    fingerprint: str


class Ratio(TypedDict):
    """A ratio of two rows."""

    title: str
    values: list[float]  # of the repetitions that count
    withheld: list[str]  # the reason for each repetition that does not
    text: str  # as in the tables


class Report(TypedDict):
    """Content of `bench.json`."""

    schema: int
    date: str
    machine: Machine
    versions: dict[str, str]
    data: Data
    epochs: int
    quick: bool
    operations: dict[str, int]
    threads: dict[str, Tuning]
    rows: list[Entry]
    ratios: list[Ratio]
