"""What costs a fresh process seconds, done before a run arrives: import TensorFlow, compile something tiny."""

from __future__ import annotations

import gc
import os


def warm_up(threads: int) -> None:
    """Imports TensorFlow and Keras, sets their threads (0: one for each core), traces one training step."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import numpy as np
    import tensorflow as tf

    from workers.trainer.engine.device import set_threads

    set_threads(threads)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(1)])
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(rows: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(model(rows, training=True) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    step(tf.constant(np.zeros((4, 2), np.float32)))
    tidy_up()


def tidy_up() -> None:
    """Lets go of the last run's graphs, so that a warm process does not grow."""
    import keras

    keras.backend.clear_session(free_memory=False)
    gc.collect()
