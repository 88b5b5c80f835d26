"""The parts of an exported script that do not depend on the run."""

from __future__ import annotations

HEAD = '''"""{title}

Written by fitserve from the run {run}. With the same rows it reaches the same losses: python train.py
Needs keras, tensorflow, numpy, pandas and pyarrow. DATA is the dataset {dataset} as Parquet.
"""

# %% Rows
{imports}

# Operations are computed as they are written: no sum is regrouped, and rounded otherwise than in the run.
tf.config.optimizer.set_experimental_options({{"disable_meta_optimizer": True}})
SEED = {seed}
data = pd.read_parquet(os.environ.get("DATA", "data.parquet")).replace("", None)  # an empty text is missing
{rows}

# %% Encoding
'''

DROPOUT = '''GOLDEN = 0x9E3779B9


def mixed(words):
    """Mix the bits of 32-bit words."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        words = tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, tf.constant(shift, tf.uint32)))
        words = words * tf.constant(factor, tf.uint32)
    return tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, tf.constant(16, tf.uint32)))


@keras.saving.register_keras_serializable()
class Dropout(keras.layers.Dropout):
    """Dropout that drops what the run dropped: keras.layers.Dropout does as well, with other losses."""

    def call(self, inputs, training=False):
        if not training or not self.rate:
            return inputs
        state = tf.cast(tf.cast(self.seed_generator.next(), tf.int64) % 2**32, tf.uint32)
        key = mixed(state[0] + mixed(state[1] + tf.constant(GOLDEN, tf.uint32)))
        words = tf.cast(tf.range((tf.size(inputs) + 1) // 2), tf.uint32) * tf.constant(GOLDEN, tf.uint32)
        bits = tf.reshape(tf.bitcast(mixed(words + key), tf.uint16), [-1])[: tf.size(inputs)]
        kept = tf.reshape(bits, tf.shape(inputs)) >= tf.constant(round(self.rate * 65536), tf.uint16)
        return tf.where(kept, inputs * (1 / (1 - np.float32(self.rate))), 0.0)
'''

# Keras's own updates differ from ours in the last bit, which Adam magnifies a thousandfold within a few epochs.
ADAM = '''class {name}(keras.optimizers.{name}):
    """{name} in one TensorFlow operation, so that it rounds as the run did. Keras's own also works."""

    def update_step(self, gradient, variable, learning_rate):
        if isinstance(gradient, tf.IndexedSlices):  # an embedding's
            return super().update_step(gradient, variable, learning_rate)
        index, step = self._get_variable_index(variable), tf.cast(self.iterations + 1, tf.float32)
        variable = variable.value if isinstance(variable, keras.Variable) else variable
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(tf.constant(self.beta_1, tf.float32), step),
            beta2_power=tf.pow(tf.constant(self.beta_2, tf.float32), step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )
'''

RMSPROP = '''class RMSprop(keras.optimizers.RMSprop):
    """RMSprop in one TensorFlow operation, so that it rounds as the run did. Keras's own also works."""

    def build(self, variables):
        super().build(variables)
        self.unused = [tf.Variable(tf.zeros(variable.shape)) for variable in variables]  # where there is no momentum

    def update_step(self, gradient, variable, learning_rate):
        if isinstance(gradient, tf.IndexedSlices):  # an embedding's
            return super().update_step(gradient, variable, learning_rate)
        index = self._get_variable_index(variable)
        variable = variable.value if isinstance(variable, keras.Variable) else variable
        tf.raw_ops.ResourceApplyRMSProp(
            var=variable.handle,
            ms=self._velocities[index].value.handle,
            mom=(self._momentums[index].value if self.momentum else self.unused[index]).handle,
            lr=tf.cast(learning_rate, tf.float32),
            rho=self.rho,
            momentum=float(self.momentum),
            epsilon=self.epsilon,
            grad=gradient,
        )
'''

SINGLE = '''class Shuffled(keras.utils.PyDataset):
    """The training rows in batches, in an order that follows from the seed and the epoch."""

    def __init__(self):
        super().__init__()
        self.epoch = -1
        self.order = np.arange(len(train))  # Keras looks at a batch before the first epoch

    def __len__(self):
        return -(-len(train) // BATCH)

    def __getitem__(self, batch):
        chosen = train[self.order[batch * BATCH : (batch + 1) * BATCH]]
        return {name: values[chosen] for name, values in inputs.items()}, target[chosen]

    def on_epoch_begin(self):
        self.epoch += 1
        if SHUFFLE:
            self.order = np.random.Generator(np.random.Philox([SEED, self.epoch])).permutation(len(train))
'''

ENDLESS = '''def endless(own, seed):
    """The rows of one network, shuffled anew in every pass."""
    for number in itertools.count():
        order = np.random.Generator(np.random.Philox([seed, number])).permutation(len(own))
        yield from own[order] if SHUFFLE else own


'''

TOGETHER = (
    ENDLESS
    + '''def pick(rows, counted):
    """Inputs, targets, and 1 for each row that counts: (rows, networks, columns)."""
    return {name: values[rows] for name, values in inputs.items()}, target[rows], counted.astype("float32")


class Batches(keras.utils.PyDataset):
    """For each network a batch of its own rows."""

    def __init__(self):
        super().__init__()
        self.streams = [endless(rows, SEED + number) for number, rows in enumerate(train)]
        self.rows = np.stack([rows[:ROWS] for rows in train], axis=1)  # Keras looks at a batch before the first epoch

    def __len__(self):
        return -(-ROWS // BATCH)

    def __getitem__(self, batch):
        rows = self.rows[batch * BATCH : (batch + 1) * BATCH]
        return pick(rows, np.ones(rows.shape))

    def on_epoch_begin(self):
        self.rows = np.stack([np.fromiter(itertools.islice(stream, ROWS), np.int64) for stream in self.streams], axis=1)


class HeldOut(keras.utils.PyDataset):
    """The rows that each network is held back from, some at once: those of a network with fewer are filled up."""

    def __init__(self):
        super().__init__()
        most = max(map(len, validation))
        self.rows = np.stack([np.pad(rows, (0, most - len(rows))) for rows in validation], axis=1)
        self.counted = np.stack([np.arange(most) < len(rows) for rows in validation], axis=1)

    def __len__(self):
        return -(-len(self.rows) // CHUNK)

    def __getitem__(self, batch):
        part = slice(batch * CHUNK, (batch + 1) * CHUNK)
        return pick(self.rows[part], self.counted[part])


def at_once(layers, values, training):
    """The same layer of each network on its own rows: (networks, rows, columns)."""
    first, x = layers[0], values[0]

    def stacked(name):
        return tf.stack([getattr(layer, name).value for layer in layers])

{branches}    each = zip(layers, *map(tf.unstack, values))
    return tf.stack([layer(own if len(own) > 1 else own[0]) for layer, *own in each])


class SideBySide(keras.Model):
    """Networks that train in the same steps, each on batches of its own, and stop at one epoch."""

    def __init__(self, members):
        super().__init__()
        self.members = members
        self.mean = keras.metrics.Mean("loss")

    def losses_of(self, batch, training):
        """The loss of each network; their mean over all rows is what is shown."""
        x, y, counted = keras.tree.map_structure(lambda values: keras.ops.swapaxes(values, 0, 1), batch)
        first = self.members[0]
        tensors = {id(first.input[name]): values for name, values in x.items()}
        for layers in zip(*(member.layers for member in self.members)):
            if not isinstance(layers[0], keras.layers.InputLayer):
                values = [tensors[id(tensor)] for tensor in keras.tree.flatten(layers[0].input)]
                tensors[id(layers[0].output)] = at_once(layers, values, training)
        counts = tf.reduce_sum(counted, axis=1)
        losses = tf.reduce_sum(LOSS.call(y, tensors[id(first.outputs[0])]) * counted, axis=1) / tf.maximum(counts, 1.0)
        losses += [sum(member.losses) for member in self.members]
        self.mean.update_state(losses, sample_weight=counts)
        return losses

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(self.losses_of(batch, True))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": self.mean.result()}

    def test_step(self, batch):
        self.losses_of(batch, False)
        return {"loss": self.mean.result()}
'''
)

# Layers that compute several networks at once, so that their sums are rounded as in the run.
AT_ONCE = {
    "Dense": """    if isinstance(first, keras.layers.Dense):
        x = tf.matmul(x, stacked("kernel"))
        return first.activation(x + stacked("bias")[:, None] if first.use_bias else x)
""",
    "Embedding": """    if isinstance(first, keras.layers.Embedding):
        return tf.gather(stacked("embeddings"), tf.cast(x, "int32"), batch_dims=1)
""",
    "BatchNormalization": """    if isinstance(first, keras.layers.BatchNormalization):
        if training:
            mean, variance = tf.nn.moments(x, axes=[1], keepdims=True)
            for layer, *new in zip(layers, tf.unstack(mean[:, 0]), tf.unstack(variance[:, 0])):
                for moving, value in zip((layer.moving_mean, layer.moving_variance), new):
                    moving.assign(moving * layer.momentum + value * (1 - layer.momentum))
        else:
            mean, variance = stacked("moving_mean")[:, None], stacked("moving_variance")[:, None]
        x = (x - mean) * tf.math.rsqrt(variance + first.epsilon)
        x = x * stacked("gamma")[:, None] if first.scale else x
        return x + stacked("beta")[:, None] if first.center else x
""",
    "LayerNormalization": """    if isinstance(first, keras.layers.LayerNormalization):
        mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
        x = (x - mean) * tf.math.rsqrt(variance + first.epsilon)
        x = x * stacked("gamma")[:, None] if first.scale else x
        return x + stacked("beta")[:, None] if first.center else x
""",
    "Dropout": """    if isinstance(first, Dropout):
        return tf.stack([layer(own, training=training) for layer, own in zip(layers, tf.unstack(x))])
""",
}

ONE_BY_ONE = (
    ENDLESS
    + '''class Batches(keras.utils.PyDataset):
    """One network's batches."""

    def __init__(self, number):
        super().__init__()
        self.stream = endless(train[number], SEED + number)
        self.rows = train[number][:ROWS]  # Keras looks at a batch before the first epoch

    def __len__(self):
        return -(-ROWS // BATCH)

    def __getitem__(self, batch):
        chosen = self.rows[batch * BATCH : (batch + 1) * BATCH]
        return {name: values[chosen] for name, values in inputs.items()}, target[chosen]

    def on_epoch_begin(self):
        self.rows = np.fromiter(itertools.islice(self.stream, ROWS), np.int64)
'''
)

AVERAGE = """
# %% One model that answers with the mean of theirs
both = {name: keras.Input(values.shape[1:], dtype=values.dtype, name=name) for name, values in inputs.items()}
model = keras.Model(both, keras.layers.Average()([member(both) for member in members]))
"""

SAVE = """model.save("model.keras")
with open("history.json", "w") as file:
    json.dump({histories}, file)
"""
