"""Read files of users into uint8 images and labels on the host, split and fingerprinted.

Files: spec (the grammar of `--data`), sources (`load`), dataset, examples, summary, split, labels.
Each of the formats digits, idx, npz and tfds (with images) gives named arrays. names says what they
are, pixels and targets convert them, and raw puts them together to a source. Sources with a file
for each image are folder and csv: listing, table and located find the files, grouping their groups,
form their size; decode, worker, parallel and cache give pixels, and pictures puts them together.
pool adds unlabelled images of another source.
"""
