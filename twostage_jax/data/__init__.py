"""Read files of users into uint8 images and labels on the host, split and fingerprinted.

spec.py     grammar of `--data SPEC`; imports nothing heavy
sources.py  `load(spec)`: from a SPEC to a `Dataset`
dataset.py  `Source`, `Dataset`, the locked test split, fingerprints
split.py    deterministic stratified splits
labels.py   label draws and label noise
digits.py   the bundled data set
idx.py      MNIST-style files, gzipped or not
npz.py      NumPy archives
images.py   PNG and JPEG files
tfds/       TensorFlow Datasets, without TensorFlow where possible
"""
