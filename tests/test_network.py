"""The network and its training: what is built, what it is fed, what fit is asked."""

import re
import signal
import sys
import threading
import types

import keras
import numpy as np
import pytest

import train_mnist


@pytest.fixture
def build(small):
    """Builds the model for the small data set, by the constants of the moment."""
    x, _ = train_mnist.preprocess(small["x_train"], small["y_train"])
    return lambda: train_mnist.build_model(x)


@pytest.fixture
def asked(monkeypatch):
    """What fit was asked for; fit itself is left out."""
    asked = {}

    def fit(model, x, y, **options):
        asked.update(options, model=model, x=x, y=y)
        return types.SimpleNamespace(history={"loss": [1.0]})

    monkeypatch.setattr(keras.Sequential, "fit", fit)
    return asked


@pytest.fixture
def handler():
    """The callback, in a training that would handle Ctrl-C."""
    handler = train_mnist.InterruptHandler()
    handler.set_model(types.SimpleNamespace(stop_training=False))
    before = signal.getsignal(signal.SIGINT)
    yield handler
    signal.signal(signal.SIGINT, before)


def test_preprocess(mnist):
    (x_train, y_train), _ = mnist
    images, targets = train_mnist.preprocess(x_train, y_train)
    assert (images.shape, images.dtype) == ((60000, 784), "uint8")
    assert np.shares_memory(images, x_train)
    assert targets.shape == (60000, 10)
    assert (targets.sum(axis=1) == 1).all()
    assert (targets.argmax(axis=1) == y_train).all()
    assert train_mnist.preprocess(x_train[:2], np.array([0, 1]))[1].shape == (2, 10)


def test_layers(build):
    model = build()
    kinds = ["Normalization", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
    assert [type(layer).__name__ for layer in model.layers] == kinds
    _, first, drop_1, second, drop_2, last = model.layers
    assert [layer.units for layer in (first, second, last)] == [500, 500, 10]
    assert [x.activation.__name__ for x in (first, second)] == ["tanh", "tanh"]
    assert last.activation.__name__ == "softmax"
    assert (drop_1.rate, drop_2.rate) == (0.5, 0.5)
    assert model.count_params() == 648_010
    assert model.loss == "categorical_crossentropy"
    assert model.input_shape == (None, 784)
    assert model.inputs[0].dtype == "uint8"
    assert model.output_shape == (None, 10)
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}


def test_optimizer(build, constants):
    optimizer = build().optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    for step, rate in (0, 0.01), (1, 0.01 / 1.000001), (10**6, 0.005):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate, rel=1e-6)
    constants(NESTEROV=False)
    assert build().optimizer.nesterov is False


@pytest.mark.parametrize("number", [int, float, np.float32])
def test_integers_for_the_optimizer_are_as_good_as_floats(number, build, constants):
    """An integer rate would have Keras round the decay to an integer, too."""
    constants(LEARNING_RATE=number(1), MOMENTUM=number(0))
    optimizer = build().optimizer
    optimizer.iterations.assign(10**6)
    assert float(optimizer.learning_rate) == pytest.approx(0.5)
    constants(LEARNING_RATE=0.5, DECAY=number(1))
    optimizer = build().optimizer
    optimizer.iterations.assign(4)
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pixels_are_standardized_in_the_model(dtype, small, constants):
    images = small["x_train"].reshape(-1, 784).astype(dtype)
    layer = train_mnist.build_model(images).layers[0]
    assert layer.input_mean == pytest.approx(images.mean(), rel=1e-6)
    assert layer.input_variance == pytest.approx(images.astype(float).var(), rel=1e-9)
    scaled = keras.ops.convert_to_numpy(layer(images))
    assert scaled.dtype == "float32"
    assert scaled.mean() == pytest.approx(0, abs=1e-4)
    assert scaled.std() == pytest.approx(1, abs=1e-4)
    assert scaled[0, 0] == pytest.approx(-images.mean() / images.std(), rel=1e-4)
    constants(STANDARDIZE=False)
    model = train_mnist.build_model(images)
    assert type(model.layers[0]).__name__ == "Dense"
    assert model.inputs[0].dtype == dtype


@pytest.mark.parametrize("value", [0, 7, 7.1, -1e9, 9e18])
def test_images_that_are_all_one_value(value):
    """Rounding could make their variance negative."""
    images = np.full((50, 9), value, "float32")
    model = train_mnist.build_model(images)
    assert model.layers[0].input_variance >= 0
    assert (keras.ops.convert_to_numpy(model.layers[0](images)) == 0).all()
    assert np.isfinite(model.predict_on_batch(images)).all()


def test_variance_is_never_negative():
    """Of 0.1, the mean square is less than the squared mean, in float64."""
    for value in np.linspace(0.1, 3, 30):
        images = np.full((3, 7), value, "float32")
        layer = train_mnist.build_model(images).layers[0]
        assert 0 <= layer.input_variance < 1e-12


@pytest.mark.parametrize("units", [(), (300,), [800, 400, 200]])
def test_hidden_units(units, build, constants):
    constants(HIDDEN_UNITS=units)
    dense = [x.units for x in build().layers if isinstance(x, keras.layers.Dense)]
    assert dense == [*units, 10]


def test_what_fit_is_asked(quick, small, build, asked, capsys):
    x, y = train_mnist.preprocess(small["x_train"], small["y_train"])
    history, interrupted = train_mnist.train(build(), x, y)
    assert (history, interrupted) == ({"loss": [1.0]}, False)
    assert (asked["x"].shape, asked["x"].dtype) == ((2100, 784), "uint8")
    assert (asked["y"] == y[:2100]).all()
    for found, expected in zip(asked["validation_data"], (x, y), strict=True):
        assert (found == expected[2100:]).all()
        assert len(found) == 900
    for name, value in {
        "batch_size": 200,
        "epochs": 1,
        "steps_per_epoch": 11,
        "verbose": 2,
    }.items():
        assert asked[name] == value
    assert asked.get("shuffle", True)
    handler, stopper = asked["callbacks"]
    assert isinstance(handler, train_mnist.InterruptHandler)
    assert isinstance(stopper, keras.callbacks.TerminateOnNaN)
    assert asked["model"].train_function is None
    assert re.fullmatch(r"The training took \d+\.\d s\.\n", capsys.readouterr().out)


def test_progress_bar_on_a_terminal_and_in_a_notebook(
    quick, small, build, asked, monkeypatch
):
    x, y = train_mnist.preprocess(small["x_train"], small["y_train"])
    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "isatty", lambda: True)
        train_mnist.train(build(), x, y)
        assert asked["verbose"] == 1
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    train_mnist.train(build(), x, y)
    assert asked["verbose"] == 1


@pytest.mark.parametrize(
    ("size", "split", "batch_size", "steps"),
    [(10, 0, 5, 2), (11, 0, 5, 3), (10, 0.5, 200, 1), (10, 0.5, 10**30, 1)],
)
def test_steps_per_epoch(size, split, batch_size, steps, constants, build, asked):
    """Every image is trained on once an epoch, the last, smaller batch included."""
    constants(VALIDATION_SPLIT=split, BATCH_SIZE=batch_size)
    images = np.zeros((size, 784), "uint8")
    train_mnist.train(build(), images, np.eye(10)[np.arange(size) % 10])
    assert asked["steps_per_epoch"] == steps
    assert asked["batch_size"] <= size
    assert (asked["validation_data"] is None) == (split == 0)


def test_every_image_is_seen_once_an_epoch(quick, small, build, monkeypatch):
    """Also the last ones, which fill neither a batch nor an execution of ten steps."""
    freed = []
    free = train_mnist.free_in_background
    monkeypatch.setattr(train_mnist, "free_in_background", lambda m: freed.append(m))
    quick(BATCH_SIZE=97, EPOCHS=3)
    x, y = train_mnist.preprocess(small["x_train"][:2990], small["y_train"][:2990])
    options = {"batch_size": 97, "epochs": 3, "validation_split": 0.3, "verbose": 0}
    keras.utils.set_random_seed(0)
    expected = build().fit(x, y, **options).history
    on_tensorflow = keras.backend.backend() == "tensorflow"
    for free_or_not in (free, freed.append) if on_tensorflow else (free,):
        monkeypatch.setattr(train_mnist, "free_in_background", free_or_not)
        keras.utils.set_random_seed(0)
        model = build()
        losses, _ = train_mnist.train(model, x, y)
        assert int(model.optimizer.iterations) == 3 * 22
        assert losses == expected
    assert len(freed) == on_tensorflow


def test_fewer_steps_than_one_execution(quick, small, build):
    """An epoch of one step, of which ten are run at a time."""
    quick(BATCH_SIZE=5000, EPOCHS=2)
    x, y = train_mnist.preprocess(small["x_train"], small["y_train"])
    model = build()
    losses, _ = train_mnist.train(model, x, y)
    assert int(model.optimizer.iterations) == 2
    assert len(losses["val_loss"]) == 2


@pytest.mark.parametrize(
    ("backend", "steps"), [("tensorflow", 10), ("jax", 10), ("torch", 1)]
)
def test_speed_up(backend, steps, monkeypatch):
    """What it sets must not be saved; PyTorch runs one step at a time."""
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    model = types.SimpleNamespace(steps_per_execution=1)
    freed = []
    monkeypatch.setattr(train_mnist, "free_in_background", freed.append)
    train_mnist.speed_up(model)
    assert model.steps_per_execution == steps
    assert freed == ([model] if backend == "tensorflow" else [])


def test_only_speed_is_lost_if_keras_works_otherwise(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    train_mnist.speed_up(types.SimpleNamespace())
    train_mnist.speed_up(types.SimpleNamespace(make_train_function=int))


class Iterator:
    """Notes the thread in which it is freed."""

    freed = None

    def __init__(self, freed):
        self.freed = freed

    def __del__(self):
        self.freed.append(threading.current_thread())


def three_epochs(run_steps):
    """Call a wrapped train_function as fit does, twice an epoch; return it."""
    freed, made = [], []
    model = types.SimpleNamespace(
        make_train_function=lambda: made.append(1), train_function=run_steps
    )
    train_mnist.free_in_background(model)
    assert made == [1]
    for _ in range(3):
        iterator = Iterator(freed)
        assert model.train_function(iterator) == "logs"
        assert model.train_function(iterator) == "logs"
    del iterator
    return model, freed


def test_iterators_are_freed_in_other_threads():
    threads = set()

    def run_steps(iterator):
        threads.update(set(threading.enumerate()) - {threading.main_thread()})
        return "logs"

    model, freed = three_epochs(run_steps)
    for thread in threads:
        thread.join(10)
    assert len(freed) == 2
    assert threading.main_thread() not in freed
    model.train_function = None
    assert len(freed) == 3


def test_thread_that_cannot_start(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    three_epochs(lambda iterator: "logs")


def test_split_that_leaves_nothing(quick, small, build):
    model = build()
    x, y = train_mnist.preprocess(small["x_train"], small["y_train"])
    quick(VALIDATION_SPLIT=0.9999)
    with pytest.raises(SystemExit) as refusal:
        train_mnist.train(model, x, y)
    line = "must leave images for both parts, not 0 and 3000"
    assert refusal.value.code == f"VALIDATION_SPLIT = 0.9999: {line}"
    quick(VALIDATION_SPLIT=1e-18)
    with pytest.raises(SystemExit, match="^VALIDATION_SPLIT = 1e-18: .* 3000 and 0$"):
        train_mnist.train(model, x, y)
    quick(VALIDATION_SPLIT=0.9996)
    train_mnist.train(model, x, y)


def test_trains_in_a_thread(quick, capsys):
    """Where Python lets nobody handle Ctrl-C, the training runs all the same."""
    thread = threading.Thread(target=train_mnist.main)
    thread.start()
    thread.join()
    assert "The accuracy of the model is" in capsys.readouterr().out


def test_first_interrupt_stops_the_training(handler):
    before = signal.getsignal(signal.SIGINT)
    model = handler.model
    handler.on_train_begin()
    assert signal.getsignal(signal.SIGINT) == handler.stop
    handler.set_model(None)  # it is not to be asked for when the signal comes
    signal.raise_signal(signal.SIGINT)
    assert handler.interrupted
    assert model.stop_training
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    handler.on_train_end()
    assert signal.getsignal(signal.SIGINT) is before


def test_handler_is_given_back(handler):
    before = signal.getsignal(signal.SIGINT)
    handler.on_train_begin()
    handler.on_train_end()
    assert signal.getsignal(signal.SIGINT) is before
    assert not handler.interrupted


def test_interrupt_that_is_ignored_stays_ignored(handler):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handler.on_train_begin()
    signal.raise_signal(signal.SIGINT)
    assert not handler.interrupted
    handler.on_train_end()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_interrupt_within_a_step(quick, small, build, capsys):
    """On JAX the weights of the last step are given up there, the next not yet here."""
    x, y = train_mnist.preprocess(small["x_train"], small["y_train"])
    model = build()
    model.make_train_function()
    take_step = model.train_function
    steps = []

    def train_function(*args):
        results = take_step(*args)
        steps.append(results)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)
        return results

    model.train_function = train_function
    quick(EPOCHS=50, BATCH_SIZE=20)
    history, interrupted = train_mnist.train(model, x, y)
    assert interrupted
    assert len(history["val_loss"]) == 1
    assert len(steps) == 2
    assert np.isfinite(train_mnist.evaluate(model, x, y)[0])


def test_evaluate():
    """The mean loss, the share of right digits, and the probabilities as they are."""
    model = keras.Sequential([keras.Input((10,)), keras.layers.Softmax()])
    model.compile(loss="categorical_crossentropy")
    x = np.log(np.array([[0.91] + [0.01] * 9, [0.11, 0.01] + [0.11] * 8], "float32"))
    loss, accuracy, probabilities = train_mnist.evaluate(model, x, np.eye(10)[:2])
    assert loss == pytest.approx(-np.log([0.91, 0.01]).mean(), rel=1e-4)
    assert (type(accuracy), accuracy) == (float, 0.5)
    assert probabilities == pytest.approx(np.exp(x), rel=1e-4)
