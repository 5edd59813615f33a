"""Time train_mnist.py against a line-by-line port of the tutorial, in turn.

    python tests/benchmark.py

Each contestant runs in a process of its own, one after the other, RUNS times over,
on the bundled data and with the same work an epoch: 42,000 images to train with in
batches of 200, with dropout and Nesterov momentum, and 18,000 to validate with.
Beside them, a TensorFlow loop that is compiled whole, without Keras.
Where jax is installed, the script on JAX and a JAX scan that is compiled whole join in;
where torch is, an eager PyTorch loop. It is no test, and nothing here is asserted.
"""

import contextlib
import importlib.util
import io
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

RUNS = 3  # processes of each contestant
EPOCHS = 15  # in each process; the first, with its compilation, is not in the mean
ROOT = Path(__file__).resolve().parent.parent


def load(dtype):
    """Return training and validation images, (N, 784), and one-hot labels, (N, 10)."""
    with np.load(ROOT / "mnist.npz") as data:
        x = data["x_train"].reshape(-1, 784).astype(dtype)
        y = (data["y_train"][:, None] == np.arange(10)).astype(dtype)
    return x[:42000], y[:42000], x[42000:], y[42000:]


def keras_clock():
    """Have every fit of Keras note its epochs' times; return the list of them."""
    import keras

    times = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            times.append(time.perf_counter() - self.start)

    fit = keras.Sequential.fit

    def timed_fit(model, *args, callbacks=(), **options):
        return fit(model, *args, callbacks=[*callbacks, Clock()], **options)

    keras.Sequential.fit = timed_fit
    return times


def port():
    """The tutorial's script, line by line, in today's Keras."""
    times = keras_clock()
    import keras
    from keras.layers import Dense, Dropout

    with np.load(ROOT / "mnist.npz") as data:
        x_train, y_train = data["x_train"], data["y_train"]
        x_test, y_test = data["x_test"], data["y_test"]
    x_train = x_train.reshape(60000, 784)
    x_test = x_test.reshape(10000, 784)
    y_train = (np.arange(10) == y_train[:, None]).astype(int)
    y_test = (np.arange(10) == y_test[:, None]).astype(int)

    model = keras.Sequential()
    model.add(keras.Input((784,)))
    model.add(Dense(500, activation="tanh"))
    model.add(Dropout(0.5))
    model.add(Dense(500, activation="tanh"))
    model.add(Dropout(0.5))
    model.add(Dense(10, activation="softmax"))
    rate = keras.optimizers.schedules.InverseTimeDecay(0.01, 1, 1e-6)
    sgd = keras.optimizers.SGD(learning_rate=rate, momentum=0.9, nesterov=True)
    model.compile(loss="categorical_crossentropy", optimizer=sgd)
    model.summary()
    options = {"epochs": EPOCHS, "shuffle": True, "validation_split": 0.3}
    model.fit(x_train, y_train, batch_size=200, verbose=1, **options)
    model.evaluate(x_test, y_test, batch_size=200, verbose=0)
    model.predict(x_test, batch_size=200, verbose=0)
    return times


def script():
    """train_mnist.py, which writes no file here, as the port doesn't."""
    sys.path.insert(0, str(ROOT))
    import train_mnist

    times = keras_clock()
    train_mnist.EPOCHS = EPOCHS
    train_mnist.MODEL_PATH = train_mnist.PLOT_PATH = train_mnist.LOG_PATH = None
    train_mnist.main()
    return times


def tf_loop():
    """Hand-written TensorFlow, the whole epoch compiled into one loop."""
    import tensorflow as tf

    x, y, x_val, y_val = map(tf.constant, load("float32"))
    mean, std = tf.reduce_mean(x), tf.math.reduce_std(x)
    tf.random.set_seed(0)
    weights = []
    for rows, columns in itertools.pairwise((784, 500, 500, 10)):
        limit = (6 / (rows + columns)) ** 0.5
        kernel = tf.random.uniform((rows, columns), -limit, limit)
        weights += [kernel, tf.zeros(columns)]

    def loss(weights, x, y, rate):
        x = (x - mean) / std
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2]):
            x = tf.nn.dropout(tf.tanh(tf.nn.bias_add(x @ kernel, bias)), rate)
        logits = tf.nn.bias_add(x @ weights[-2], weights[-1])
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y, logits))

    @tf.function
    def epoch(weights, momenta):
        # The state goes from step to step as tensors: variables would be slower.
        for batch in tf.reshape(tf.random.shuffle(tf.range(len(x))), (-1, 200)):
            value = loss(weights, tf.gather(x, batch), tf.gather(y, batch), 0.5)
            slopes = tf.gradients(value, weights)
            momenta = [0.9 * m - 0.01 * g for m, g in zip(momenta, slopes)]
            updates = [0.9 * m - 0.01 * g for m, g in zip(momenta, slopes)]
            weights = [w + u for w, u in zip(weights, updates)]
        return weights, momenta, loss(weights, x_val, y_val, 0)

    momenta = [tf.zeros_like(w) for w in weights]
    times = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        weights, momenta, value = epoch(weights, momenta)
        value.numpy()  # waits for it
        times.append(time.perf_counter() - start)
    return times


def torch_loop():
    """An ordinary eager PyTorch loop."""
    import torch
    from torch import nn

    x, y, x_val, y_val = map(torch.from_numpy, load("float32"))
    mean, std = x.mean(), x.std()
    layers = [nn.Linear(784, 500), nn.Tanh(), nn.Dropout(), nn.Linear(500, 500)]
    model = nn.Sequential(*layers, nn.Tanh(), nn.Dropout(), nn.Linear(500, 10))
    options = {"lr": 0.01, "momentum": 0.9, "nesterov": True}
    sgd = torch.optim.SGD(model.parameters(), **options)
    measure = nn.CrossEntropyLoss()
    times = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        model.train()
        for batch in torch.randperm(len(x)).split(200):
            sgd.zero_grad()
            loss = measure(model((x[batch] - mean) / std), y[batch])
            loss.backward()
            sgd.step()
        model.eval()
        with torch.no_grad():
            measure(model((x_val - mean) / std), y_val).item()
        times.append(time.perf_counter() - start)
    return times


def jax_scan():
    """Hand-written JAX, the whole epoch compiled into one scan."""
    import jax
    import jax.numpy as jnp

    x, y, x_val, y_val = map(jnp.asarray, load("float32"))
    mean, std = x.mean(), x.std()
    key = jax.random.key(0, impl="rbg")
    sizes = (784, 500, 500, 10)
    weights = []
    for rows, columns in itertools.pairwise(sizes):
        key, new = jax.random.split(key)
        limit = (6 / (rows + columns)) ** 0.5
        kernel = jax.random.uniform(new, (rows, columns), minval=-limit, maxval=limit)
        weights.append((kernel, jnp.zeros(columns)))

    def loss(weights, x, y, key=None):
        x = (x - mean) / std
        for kernel, bias in weights[:-1]:
            x = jnp.tanh(x @ kernel + bias)
            if key is not None:
                key, new = jax.random.split(key)
                x = jnp.where(jax.random.bernoulli(new, 0.5, x.shape), 2 * x, 0)
        logits = x @ weights[-1][0] + weights[-1][1]
        return -(jax.nn.log_softmax(logits) * y).sum(axis=1).mean()

    def step(state, batch):
        weights, momenta, key = state
        key, new = jax.random.split(key)
        slopes = jax.grad(loss)(weights, x[batch], y[batch], new)
        momenta = jax.tree.map(lambda m, g: 0.9 * m - 0.01 * g, momenta, slopes)
        update = jax.tree.map(lambda m, g: 0.9 * m - 0.01 * g, momenta, slopes)
        return (jax.tree.map(jnp.add, weights, update), momenta, key), None

    @jax.jit
    def epoch(state):
        weights, momenta, key = state
        key, new = jax.random.split(key)
        batches = jax.random.permutation(new, len(x)).reshape(-1, 200)
        state, _ = jax.lax.scan(step, (weights, momenta, key), batches)
        return state, loss(state[0], x_val, y_val)

    state = weights, jax.tree.map(jnp.zeros_like, weights), key
    times = []
    for _ in range(EPOCHS):
        start = time.perf_counter()
        state, value = epoch(state)
        value.block_until_ready()
        times.append(time.perf_counter() - start)
    return times


CONTESTANTS = {
    "port": ("the tutorial, ported line by line", port),
    "script": ("train_mnist.py", script),
    "script on jax": ("train_mnist.py, KERAS_BACKEND=jax", script),
    "tf": ("TensorFlow, one compiled loop an epoch", tf_loop),
    "torch": ("PyTorch, an eager loop", torch_loop),
    "jax": ("JAX, one compiled scan an epoch", jax_scan),
}


def peak_memory():
    """The peak memory of this process in MB, or NaN where Python can't tell."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def contestant(name):
    """Run one contestant in this process; print its figures as JSON."""
    with contextlib.redirect_stdout(io.StringIO()):
        times = CONTESTANTS[name][1]()
    mean = sum(times[1:]) / len(times[1:])
    print(json.dumps([min(times), mean, time.process_time(), peak_memory()]))


def can_take_part(name):
    """Whether this machine has what a contestant needs."""
    package = name.split()[-1]
    return package not in ("torch", "jax") or importlib.util.find_spec(package)


def main():
    """Run the contestants in turn, then print their figures and the ratios."""
    names = [name for name in CONTESTANTS if can_take_part(name)]
    figures = {name: [] for name in names}
    for run in range(RUNS):
        for name in names:
            backend = "jax" if name == "script on jax" else "tensorflow"
            environment = {**os.environ, "KERAS_BACKEND": backend}
            environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
            command = [sys.executable, __file__, name]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            done = subprocess.run(command, check=True, env=environment, **pipes)
            figures[name].append(json.loads(done.stdout))
            print(f"run {run + 1} of {RUNS}: {name}", file=sys.stderr)
    print(f"{RUNS} runs of {EPOCHS} epochs (in brackets: to the port's)")
    columns = {"least epoch s": np.min, "mean epoch s": np.mean}
    columns |= {"CPU s per run": np.mean, "peak MB": np.max}
    print(f"{'':38}" + "".join(f"{title:>15}" for title in columns))
    for name in names:
        line = f"{CONTESTANTS[name][0]:38}"
        for i, summary in enumerate(columns.values()):
            value, base = (summary([f[i] for f in figures[n]]) for n in (name, "port"))
            line += f"{value:.{2 if i < 2 else 0}f} ({value / base:.2f})".rjust(15)
        print(line)


if __name__ == "__main__":
    contestant(sys.argv[1]) if len(sys.argv) > 1 else main()
