"""Simulated recordings against closed forms for given curves, and the file that they leave."""

import numpy as np
import pytest

from data_tools.errors import InputError
from lesde_infer.simulation import simulate

QUIET = {"global_scale": 0.0, "class_scale": 0.0, "individual_scale": 0.0}
STILL = {"alpha": 0.0, "beta": 0.0, "kappa": 0.0}


def read(recording):
    with recording:
        layer = recording.layers[0]
        return layer, np.asarray(recording.features(layer)[:], dtype=float), recording.labels, recording.given_labels


def test_isotropic_ode_grows_by_the_integrals_of_the_curves(tmp_path):
    """For curves linear in time the middle of an interval gives its integral exactly."""
    steps = np.array([0, 3, 10, 11, 40])
    first = np.random.default_rng(0).normal(size=(9, 5))
    recording = simulate(
        tmp_path / "run.h5",
        n_classes=3,
        samples_per_class=[2, 3, 4],
        steps=steps,
        alpha=lambda t: 0.05 + 0.001 * t,
        beta=lambda t: 0.02 - 0.0005 * t,
        kappa=0.01,
        **QUIET,
        impact="I",
        first_features=first,
        noise=False,
    )
    np.testing.assert_array_equal(recording.steps, steps)
    assert recording.logits is None
    layer, features, labels, given = read(recording)
    assert layer == "features"
    np.testing.assert_array_equal(labels, [0, 0, 1, 1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(given, labels)
    alpha = 0.05 * steps + 0.0005 * steps**2
    beta = 0.02 * steps - 0.00025 * steps**2
    means = np.array([first[labels == k].mean(axis=0) for k in range(3)])
    centre = means.mean(axis=0)
    for record, step in enumerate(steps):
        expected = (
            np.exp((alpha + 2 * beta)[record] / 3) * centre
            + (np.exp((alpha - beta)[record] / 3) * (means - centre))[labels]
            + np.exp(0.01 * step) * (first - means[labels])
        )
        np.testing.assert_allclose(features[record], expected, rtol=1e-6)


@pytest.mark.parametrize("impact", ["L", "R"])
def test_logits_separate_under_positive_elasticity(tmp_path, impact):
    recording = simulate(
        tmp_path / "run.h5",
        n_classes=3,
        samples_per_class=10,
        steps=np.arange(0, 101, 5),
        alpha=0.3,
        beta=0.0,
        kappa=0.0,
        global_scale=0.001,
        class_scale=0.001,
        individual_scale=0.001,
        impact=impact,
        first_features=0.01 * np.eye(3)[np.repeat(np.arange(3), 10)],
        seed=1,
        dof=4,
    )
    assert recording.logits == "logits"
    _, features, labels, _ = read(recording)
    assert (features[-1].argmax(axis=1) == labels).all()
    assert np.linalg.norm(features[-1]) > 20 * np.linalg.norm(features[0])


def test_noise_of_an_interval_has_the_scale_of_the_square_root_of_its_length(tmp_path):
    steps = np.array([0, 4, 29])
    recording = simulate(
        tmp_path / "run.h5",
        n_classes=2,
        samples_per_class=3000,
        steps=steps,
        **STILL,
        global_scale=0.0,
        class_scale=0.0,
        individual_scale=lambda t: 0.5 if t < 4 else 2.0,
        impact="I",
        n_features=3,
        seed=2,
    )
    _, features, _, _ = read(recording)
    spread = np.diff(features, axis=0).std(axis=(1, 2))
    np.testing.assert_allclose(spread, [0.5 * 2, 2.0 * 5], rtol=4 / np.sqrt(2 * 18000))  # four standard errors


def test_label_noise_moves_labels_to_other_classes_at_its_rate(tmp_path):
    settings = {"n_classes": 3, "steps": np.array([0, 1]), **STILL, **QUIET, "impact": "I", "seed": 3, "noise": False}
    _, _, labels, given = read(simulate(tmp_path / "some.h5", samples_per_class=1000, label_noise=0.3, **settings))
    wrong = given != labels
    assert abs(wrong.mean() - 0.3) < 4 * np.sqrt(0.21 / 3000)
    shares = np.bincount((given - labels)[wrong] % 3, minlength=3)
    assert abs(shares[1] / wrong.sum() - 0.5) < 4 * np.sqrt(0.25 / wrong.sum())
    _, _, labels, given = read(simulate(tmp_path / "all.h5", samples_per_class=5, label_noise=1.0, **settings))
    assert (given != labels).all()


def test_a_seed_fixes_the_path(tmp_path):
    settings = {"n_classes": 2, "samples_per_class": 4, "steps": np.arange(5), **STILL, "impact": "I"}
    scales = {"global_scale": 0.1, "class_scale": 0.1, "individual_scale": 0.1}
    paths = [
        read(simulate(tmp_path / f"{name}.h5", seed=seed, **settings, **scales))[1]
        for name, seed in (("a", 4), ("b", 4), ("c", 5))
    ]
    np.testing.assert_array_equal(paths[0], paths[1])
    assert not np.allclose(paths[0], paths[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": np.array([0, 5, 5])}, "each later than the one before"),
        ({"steps": np.array([0])}, "at least 2 steps"),
        ({"impact": "Q"}, "give one of I, L, R"),
        ({"label_noise": 1.5}, "give a probability"),
        ({"n_classes": 1}, "at least 2 classes"),
        ({"samples_per_class": [1, 2, 3]}, "samples_per_class"),
        ({"samples_per_class": 0}, "samples_per_class"),
        ({"alpha": lambda t: 1 / (t - 7.5) if t != 7.5 else np.inf}, "alpha is not finite at step 7.5"),
        ({"class_scale": -1.0}, "class_sd is negative"),
        ({"n_features": 5}, "give the classifier of this layer"),
        ({"first_features": np.ones((6, 2)), "n_features": 3}, "n_features is 3"),
        ({"impact": "I", "kappa": 1e6, "steps": np.arange(40)}, "exceed double precision at step"),
    ],
)
def test_bad_input_is_refused_and_leaves_no_file(tmp_path, change, message):
    settings = {"n_classes": 2, "samples_per_class": 3, "steps": np.array([0, 5, 10]), **STILL, **QUIET, "impact": "R"}
    with pytest.raises(InputError, match=message):
        simulate(tmp_path / "run.h5", **{**settings, **change})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_forced(tmp_path):
    path = tmp_path / "run.h5"
    path.write_text("mine")
    settings = {"n_classes": 2, "samples_per_class": 3, "steps": np.arange(3), **STILL, **QUIET, "impact": "I"}
    with pytest.raises(InputError, match=r"run\.h5"):
        simulate(path, **settings)
    assert path.read_text() == "mine"
    assert simulate(path, force=True, **settings).n_records == 3
