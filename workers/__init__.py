"""The worker processes: supervisor, trainer, reaper. TensorFlow is imported here alone."""
