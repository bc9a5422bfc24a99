"""The drive of training with momentum, on linear softmax networks whose elasticity is known exactly."""

import numpy as np
import pytest
from core_helpers import make_case
from scipy import special

from data_tools.errors import InputError
from data_tools.recording import Recording
from data_tools.recording_writer import write_recording
from lesde_infer.momentum import MomentumFilter, momentum_filter
from lesde_infer.statistics import compute_statistics

K, LR = 3, 0.2
OWN, SHARED = 2.0, 1.0
"""Inner products of inputs: of one class OWN + SHARED, of two classes SHARED. So E_kl is LR/(1 − m) times these."""


def train(path, momentum, keep, *, n_steps=400, batch=None, seed=0, lr=LR, **provenance):
    """Train logits = W x by SGD with momentum on one input a class; record the steps of ``keep``.

    ``batch`` samples are drawn at each step; None is the whole set. Two samples a class differ by next to nothing.
    """
    rng = np.random.default_rng(seed)
    inputs = np.c_[np.sqrt(OWN) * np.eye(K), np.full(K, np.sqrt(SHARED))]
    weight, velocity = rng.normal(size=(K, K + 1)), np.zeros((K, K + 1))
    labels = np.tile(np.arange(K), 2)
    features = []
    for _ in range(n_steps + 1):
        logits = inputs @ weight.T
        features.append(np.concatenate([logits, logits]) + 1e-9 * rng.normal(size=(2 * K, K)))
        drawn = np.arange(K) if batch is None else rng.integers(K, size=batch)
        residuals = np.eye(K)[drawn] - special.softmax(logits[drawn], axis=1)
        velocity = momentum * velocity + residuals.T @ inputs[drawn] / len(drawn)
        weight = weight + lr * velocity
    path = write_recording(
        path, keep, labels, {"out": np.array(features)[keep]}, logits="out",
        provenance={"momentum": momentum, "lr": lr, "optimizer": "SGD", **provenance},
    )  # fmt: skip
    return Recording(path)


def least_squares(statistics):
    """γ of least squares along the drive, feedback left out."""
    stratum = statistics.contrast
    exposure = statistics.lengths[:, None] / K
    return stratum.direction_increment.sum() / (stratum.direction_square * exposure).sum()


def filtered_by_hand(impacts, momentum):
    """(1 − m) Σ m^j h_{n−j}, by the sum itself."""
    powers = (1 - momentum) * momentum ** np.arange(len(impacts))
    return np.array([np.tensordot(powers[: n + 1], impacts[n::-1], axes=1) for n in range(len(impacts))])


class TestFilter:
    @pytest.mark.parametrize("momentum", [0.5, 0.9])
    def test_at_every_step_it_is_the_velocity(self, momentum):
        impacts = np.random.default_rng(0).normal(size=(30, K, 2))
        own = MomentumFilter(momentum, np.arange(31))
        drives = [own.drive(record, impacts[record])[0] for record in range(30)]
        np.testing.assert_allclose(drives, filtered_by_hand(impacts, momentum), rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("momentum", [0.5, 0.9])
    def test_over_longer_intervals_it_is_the_mean_of_the_velocity(self, momentum):
        """Impacts that are constant between records, at irregular steps."""
        steps = np.array([0, 1, 2, 5, 13, 14, 60, 61])
        impacts = np.random.default_rng(1).normal(size=(len(steps), K, 2))
        held = np.repeat(impacts[:-1], np.diff(steps), axis=0)
        velocity = filtered_by_hand(held, momentum)
        own = MomentumFilter(momentum, steps)
        for record in range(len(steps) - 1):
            drive, share = own.drive(record, impacts[record])
            np.testing.assert_allclose(
                drive, velocity[steps[record] : steps[record + 1]].mean(axis=0), rtol=1e-10, atol=1e-12
            )
            assert 0 < share <= 1

    def test_constant_impacts_drive_by_themselves_after_a_late_start(self):
        impacts = np.random.default_rng(2).normal(size=(K, 2))
        own = MomentumFilter(0.9, np.array([100, 101, 110]))
        for record in range(3):
            np.testing.assert_allclose(own.drive(record, impacts)[0], impacts, rtol=1e-12)

    def test_records_that_are_left_out_keep_the_last_impacts(self):
        steps = np.array([0, 2, 4, 6])
        h = np.random.default_rng(3).normal(size=(3, K, 2))
        gappy, whole = MomentumFilter(0.8, steps), MomentumFilter(0.8, steps)
        gappy.drive(0, h[0])
        whole.drive(0, h[0])
        whole.drive(1, h[0])
        np.testing.assert_allclose(gappy.drive(2, h[1])[0], whole.drive(2, h[1])[0], rtol=1e-12)


class TestTraining:
    @pytest.mark.parametrize("momentum", [0.5, 0.9])
    def test_increments_at_every_step_are_the_filtered_drive_exactly(self, momentum, tmp_path):
        """Impact R with one-hot targets: the direction and the size of each increment of contrasts are the model's."""
        truth = LR * OWN / (1 - momentum)
        with train(tmp_path / "run.h5", momentum, np.arange(101)) as recording:
            found, plain = (compute_statistics(recording, "out", "R", drive=d) for d in ("filtered", "instantaneous"))
        push = truth / K * found.lengths
        size = found.contrast.increment_square
        np.testing.assert_allclose(
            found.contrast.direction_increment.sum(axis=1), push * found.contrast.direction_square.sum(axis=1),
            rtol=1e-5,
        )  # fmt: skip
        np.testing.assert_allclose(size, push**2 * found.contrast.direction_square.sum(axis=1), rtol=1e-5)
        assert least_squares(found) == pytest.approx(truth, rel=1e-5)
        assert abs(least_squares(plain) / truth - 1) > 0.05

    @pytest.mark.slow
    def test_dense_records_come_closer_with_the_filter(self, tmp_path):
        """Single random samples a step, recorded every second one: residuals jump, the velocity remembers them."""
        momentum = 0.9
        truth = LR * OWN / (1 - momentum)
        found, plain = [], []
        for seed in range(6):
            with train(
                tmp_path / f"{seed}.h5", momentum, np.arange(0, 2001, 2), n_steps=2000, batch=1, seed=seed
            ) as recording:
                found.append(least_squares(compute_statistics(recording, "out", "R", drive="filtered")))
                plain.append(least_squares(compute_statistics(recording, "out", "R", drive="instantaneous")))
        assert abs(np.mean(found) / truth - 1) < 0.5 * abs(np.mean(plain) / truth - 1), (found, plain, truth)


class TestChoice:
    @pytest.mark.parametrize(
        ("momentum", "keep", "expected"),
        [
            (0.9, np.arange(0, 61, 5), "filtered"),
            (0.9, np.arange(0, 121, 12), "instantaneous"),
            (0.5, np.arange(0, 61, 5), "instantaneous"),
            (0.9, np.array([n for n in range(101) if n % 20 < 2]), "instantaneous"),  # bursts: gaps hide the memory
            (0.0, np.arange(61), "instantaneous"),
        ],
    )
    def test_records_have_to_be_dense_against_the_memory(self, momentum, keep, expected, tmp_path):
        with train(tmp_path / "run.h5", momentum, keep, n_steps=int(keep[-1])) as recording:
            assert compute_statistics(recording, "out", "R").drive == expected
            assert compute_statistics(recording, "out", "L").drive == "instantaneous"

    def test_without_momentum_no_bit_changes(self, tmp_path):
        run, layer, impact = make_case("R hidden", 3, seed=1)
        with run.write(tmp_path / "run.h5") as recording:
            auto, plain = (compute_statistics(recording, layer, impact, drive=d) for d in ("auto", "instantaneous"))
            with pytest.raises(InputError, match=r"momentum between 0 and 1, and recorded is none; use --drive"):
                compute_statistics(recording, layer, impact, drive="filtered")
        np.testing.assert_array_equal(auto.contrast.direction_increment, plain.contrast.direction_increment)
        np.testing.assert_array_equal(auto.contrast.feedback, plain.contrast.feedback)

    @pytest.mark.parametrize(
        ("provenance", "impact", "message"),
        [
            ({"nesterov": True}, "R", "Nesterov's variant"),
            ({"dampening": 0.1}, "R", "dampening"),
            ({}, "L", "impact L has no filtered drive"),
        ],
    )
    def test_what_cannot_be_filtered_is_refused_and_left_alone_by_auto(self, provenance, impact, message, tmp_path):
        with train(tmp_path / "run.h5", 0.9, np.arange(11), n_steps=10, **provenance) as recording:
            assert momentum_filter(recording, "auto", impact, recording.steps) is None
            with pytest.raises(InputError, match=message):
                compute_statistics(recording, "out", impact, drive="filtered")

    def test_isotropic_impacts_are_filtered_too(self, tmp_path):
        with train(tmp_path / "run.h5", 0.9, np.arange(31), n_steps=30) as recording:
            found = compute_statistics(recording, "out", "I")
            means = np.asarray(recording.features("out")[:])[:, :K]
        assert found.drive == "filtered"
        drive = filtered_by_hand(means, 0.9)[:-1]
        contrast = drive - drive.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(found.contrast.direction_square[:, 0], (contrast**2).sum(axis=(1, 2)), rtol=1e-6)
        np.testing.assert_allclose(found.contrast.feedback, -0.1, rtol=1e-12)
