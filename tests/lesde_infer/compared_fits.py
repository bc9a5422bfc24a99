"""Fits for comparisons that no sampler made: γ is Gaussian around a curve, on the scale its prior lives on."""

import json

import numpy as np
import xarray as xr

from data_tools.recording_writer import write_recording
from lesde_infer.fit_result import Fit

CHAINS, DRAWS, INTERVALS, EVERY = 2, 500, 50, 20
REFERENCE = 0.01


def made_up_fit(
    gamma, *, sd=0.1, prior_sd=3.0, tail=0.5, loss=None, seed=0, probe="a", recording="run.h5", density=None, **settings
):
    """Return a fit whose γ has draws REFERENCE · sinh(u), u ~ N(asinh(γ/REFERENCE), sd²), the same u all along.

    With ``density``, the log density of the contrasts' increment in each interval under every draw, it has an ELPD.
    """
    rng = np.random.default_rng(seed)
    curve = np.broadcast_to(gamma, (INTERVALS,))
    shift = sd * rng.normal(size=(CHAINS, DRAWS, 1))
    steps = np.arange(INTERVALS + 1) * EVERY
    chosen = {
        **{"layer": "out", "impact": "R", "elasticity": "homogeneous", "curve": "gp"},
        **{"group": "labels", "seed": 0, "until": None, **settings},
    }
    constant = {
        "step": ("record", steps),
        "record_time": ("record", steps.astype(float)),
        "start_record": ("time", np.arange(INTERVALS)),
        "class_size": ("class_", [6, 6, 6]),
    }
    time = {"time": steps[:-1] + EVERY / 2.0}
    draws = REFERENCE * np.sinh(np.arcsinh(curve / REFERENCE) + shift)
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(
                {
                    "gamma": (("chain", "draw", "time"), draws),
                    "tail_index": (("chain", "draw"), tail + 0.1 * rng.normal(size=(CHAINS, DRAWS))),
                },
                time,
            ),
            "sample_stats": xr.Dataset({"diverging": (("chain", "draw"), np.zeros((CHAINS, DRAWS), dtype=bool))}),
            "constant_data": xr.Dataset(constant, time, {"n_features": 3, "gamma_sampling_error": 0.0}),
            "prior_widths": xr.Dataset({"gamma": ("time", np.full(INTERVALS, prior_sd))}, time),
            **({} if density is None else _densities(density, time)),
        }
    )
    tree["prior_widths"].attrs["gamma_reference"] = REFERENCE
    provenance = {"recording": recording} | ({} if probe is None else {"recording.probe_sha256": probe})
    tree.attrs.update(settings=json.dumps(chosen), provenance=json.dumps(provenance), time_unit="steps")
    return Fit(tree)


def _densities(density, time):
    shape = ("chain", "draw", "time")
    flat = np.zeros((CHAINS, DRAWS, INTERVALS))
    strata = {"contrast": flat + density, "shared": flat, "growth": flat, "individual": flat}
    movement = {"contrast_increment_square": ("time", np.arange(1.0, INTERVALS + 1.0))}
    return {
        "log_likelihood": xr.Dataset({name: (shape, values) for name, values in strata.items()}, time),
        "observed_data": xr.Dataset(movement, time),
    }


def separating_recording(path, separates_at, *, seed=0, wrong=0.0, loss=None):
    """Write a recording whose three classes are mixed at first, and apart from a step on; return its path."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], 6)
    given = labels.copy()
    n_wrong = round(wrong * len(labels))
    given[:n_wrong] = (labels[:n_wrong] + 1) % 3
    steps = np.arange(INTERVALS + 1) * EVERY
    noise = rng.uniform(-1, 1, size=(len(steps), len(labels), 3))
    distance = np.where(steps >= separates_at, 10.0, 0.0)[:, None, None]
    features = {"out": noise + distance * np.eye(3)[labels]}
    scalars = {} if loss is None else {"loss": loss}
    return write_recording(path, steps, labels, features, logits="out", given_labels=given, scalars=scalars)
