"""Time train_mnist.py against a line-by-line port of the tutorial, in turn.

    python tests/benchmark.py

Each contestant runs in a process of its own, one after the other, RUNS times over,
on the bundled data and with the same work an epoch: 42,000 images to train with in
batches of 200, with dropout and Nesterov momentum, and 18,000 to validate with.
Where jax or torch is installed, the script on it joins in. It is no test.
"""

import contextlib
import importlib.util
import io
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
CONTESTANTS = ["port", "tensorflow", "jax", "torch"]  # the script, by its backend


def port():
    """The tutorial's script, line by line, in today's Keras."""
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


def script():
    """train_mnist.py, which writes no file here, as the port doesn't."""
    sys.path.insert(0, str(ROOT))
    import train_mnist

    train_mnist.EPOCHS = EPOCHS
    train_mnist.MODEL_PATH = train_mnist.PLOT_PATH = train_mnist.LOG_PATH = None
    train_mnist.main()


def run(name):
    """Run a contestant in this process; print its epochs' times and its memory."""
    import resource

    import keras

    times = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            times.append(time.perf_counter() - self.start)

    fit = keras.Sequential.fit
    keras.Sequential.fit = lambda model, *args, callbacks=(), **options: fit(
        model, *args, callbacks=[*callbacks, Clock()], **options
    )
    with contextlib.redirect_stdout(io.StringIO()):
        port() if name == "port" else script()
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    print(json.dumps([min(times), np.mean(times[1:]), time.process_time(), peak]))


def main():
    """Run the contestants in turn, then print their figures and the ratios."""
    names = [x for x in CONTESTANTS if x == "port" or importlib.util.find_spec(x)]
    figures = {name: [] for name in names}
    for name in names * RUNS:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment["KERAS_BACKEND"] = name.replace("port", "tensorflow")
        command = [sys.executable, __file__, name]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        done = subprocess.run(command, check=True, env=environment, **pipes)
        figures[name].append(json.loads(done.stdout))
        print(name, figures[name][-1], file=sys.stderr)
    print(f"{RUNS} runs of {EPOCHS} epochs (in brackets: to the port's)")
    print("            least epoch s   mean epoch s  CPU s per run        peak MB")
    for name in names:
        line = f"{name:10}"
        for i, summary in enumerate((np.min, np.mean, np.mean, np.max)):
            value, base = (summary([f[i] for f in figures[n]]) for n in (name, "port"))
            line += f"{value:.{2 if i < 2 else 0}f} ({value / base:.2f})".rjust(15)
        print(line)


if __name__ == "__main__":
    run(sys.argv[1]) if len(sys.argv) > 1 else main()
