"""The worker processes: supervisor, trainer, reaper. Only this package imports TensorFlow."""
