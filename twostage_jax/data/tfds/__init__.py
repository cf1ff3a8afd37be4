"""TensorFlow Datasets, without TensorFlow if possible. Files: prepare, prepared, records."""
