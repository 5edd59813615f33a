"""The network and its training: what is built, what it is fed, what fit is asked."""

import threading
import types

import keras
import numpy as np
import pytest

import train_mnist


@pytest.fixture
def build(small):
    """Builds the model for the small data set, by the constants of the moment."""
    images, _ = train_mnist.preprocess(small["x_train"], small["y_train"])
    return lambda: train_mnist.build_model(images)


@pytest.fixture
def asked(monkeypatch):
    """What fit was asked for; fit itself is left out."""
    asked = {}

    def fit(model, x, y, **options):
        asked.update(options, model=model, x=x, y=y)
        return types.SimpleNamespace(history={"loss": [1.0]})

    monkeypatch.setattr(keras.Sequential, "fit", fit)
    return asked


def test_preprocess(mnist):
    (x_train, y_train), _ = mnist
    images, targets = train_mnist.preprocess(x_train, y_train)
    assert images.shape == (60000, 784)
    assert np.shares_memory(images, x_train)
    assert targets.shape == (60000, 10)
    assert (targets.sum(axis=1) == 1).all()
    assert (targets.argmax(axis=1) == y_train).all()


def test_layers(build):
    model = build()
    kinds = ["Rescaling", "Dense", "Dropout", "Dense", "Dropout", "Dense"]
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


def test_optimizer(build):
    optimizer = build().optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    for step, rate in (0, 0.01), (1, 0.01 / 1.000001), (10**6, 0.005):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("number", [int, np.int64, np.float32])
def test_integers_for_the_optimizer_are_as_good_as_floats(number, build, script):
    """An integer rate would have Keras round the decay to an integer, too."""
    script.LEARNING_RATE, script.MOMENTUM = number(1), number(0)
    optimizer = build().optimizer
    optimizer.iterations.assign(10**6)
    assert float(optimizer.learning_rate) == pytest.approx(0.5)
    script.LEARNING_RATE, script.DECAY = 0.5, number(1)
    optimizer = build().optimizer
    optimizer.iterations.assign(4)
    assert float(optimizer.learning_rate) == pytest.approx(0.1)


def test_pixels_are_standardized_in_the_model(build, small, script):
    images = small["x_train"].reshape(-1, 784)
    scaled = keras.ops.convert_to_numpy(build().layers[0](images))
    assert scaled.dtype == "float32"
    assert scaled.mean() == pytest.approx(0, abs=1e-4)
    assert scaled.std() == pytest.approx(1, abs=1e-4)
    assert scaled[0, 0] == pytest.approx(-images.mean() / images.std(), rel=1e-4)
    script.STANDARDIZE = False
    assert type(build().layers[0]).__name__ == "Dense"


@pytest.mark.parametrize("value", [0, 7, 7.1, -1e9])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_images_that_are_all_one_value(value, dtype):
    images = np.full((50, 9), value).astype(dtype)
    probabilities = train_mnist.build_model(images).predict_on_batch(images)
    assert np.isfinite(probabilities).all()


@pytest.mark.parametrize("units", [(), (300,), [800, 400, 200]])
def test_hidden_units(units, build, script):
    script.HIDDEN_UNITS = units
    dense = [x.units for x in build().layers if isinstance(x, keras.layers.Dense)]
    assert dense == [*units, 10]


def test_what_fit_is_asked(script, small, build, asked):
    x, y = train_mnist.preprocess(small["x_train"], small["y_train"])
    train_mnist.train(build(), x, y)
    assert (asked["x"].shape, asked["x"].dtype) == ((3000, 784), "uint8")
    assert asked["y"].shape == (3000, 10)
    for name, value in {
        "batch_size": 200,
        "epochs": 1,
        "shuffle": True,
        "validation_split": 0.3,
        "steps_per_epoch": 11,
        "verbose": 2,
    }.items():
        assert asked[name] == value


@pytest.mark.parametrize(
    ("size", "split", "batch_size", "steps"),
    [(10, 0, 5, 2), (11, 0, 5, 3), (10, 0.5, 200, 1), (10, 0.5, 10**30, 1)],
)
def test_steps_per_epoch(size, split, batch_size, steps, script, build, asked):
    """Every image is trained on once an epoch, the last, smaller batch included."""
    script.VALIDATION_SPLIT, script.BATCH_SIZE = split, batch_size
    images = np.zeros((size, 784), "uint8")
    train_mnist.train(build(), images, np.eye(10, dtype=bool)[np.arange(size) % 10])
    assert asked["steps_per_epoch"] == steps


def test_every_image_is_seen_once_an_epoch(script, small, build):
    """Also the last ones, which fill neither a batch nor an execution of three steps."""
    script.BATCH_SIZE, script.EPOCHS = 97, 3
    x, y = train_mnist.preprocess(small["x_train"][:2990], small["y_train"][:2990])
    options = {"batch_size": 97, "epochs": 3, "validation_split": 0.3, "verbose": 0}
    keras.utils.set_random_seed(0)
    expected = build().fit(x, y, **options).history
    keras.utils.set_random_seed(0)
    model = build()
    losses, _ = train_mnist.train(model, x, y)
    assert model.steps_per_execution == 3
    assert int(model.optimizer.iterations) == 3 * 22
    assert losses == expected


def test_iterators_are_freed_in_other_threads():
    freed, threads = [], []

    class Iterator:
        def __del__(self):
            freed.append(threading.current_thread())

    def run_steps(iterator):
        threads.extend(set(threading.enumerate()) - set(threads))
        return "logs"

    model = types.SimpleNamespace(make_train_function=int, train_function=run_steps)
    train_mnist.free_in_background(model)
    for _ in range(3):
        iterator = Iterator()
        assert model.train_function(iterator) == "logs"
        assert model.train_function(iterator) == "logs"
    for thread in set(threads) - {threading.main_thread()}:
        thread.join(10)
    assert len(freed) == 2
    assert threading.main_thread() not in freed


def test_steps_per_execution(script, small, build, asked):
    """The bar moves at least 7 times an epoch; wide layers keep Ctrl-C answered."""
    x, y = train_mnist.preprocess(small["x_train"], small["y_train"])

    def steps(times):
        train_mnist.train(build(), np.tile(x, (times, 1)), np.tile(y, (times, 1)))
        return asked["model"].steps_per_execution

    assert [steps(1), steps(20)] == [1, 30]
    script.HIDDEN_UNITS = (4000, 4000)
    assert steps(20) == 1


def test_split_that_leaves_nothing(script):
    script.VALIDATION_SPLIT = 0.9999
    with pytest.raises(SystemExit, match="^VALIDATION_SPLIT = 0.9999: .* 0 and 3000$"):
        train_mnist.main()
    script.VALIDATION_SPLIT = 1e-18
    with pytest.raises(SystemExit, match="not 3000 and 0$"):
        train_mnist.main()


def test_trains_in_a_thread(script, capsys):
    """Where Python lets nobody handle Ctrl-C, the training runs all the same."""
    thread = threading.Thread(target=train_mnist.main)
    thread.start()
    thread.join()
    assert "The accuracy of the model is" in capsys.readouterr().out
