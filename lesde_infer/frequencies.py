"""How often training samples each class: π_l of the drift Σ_l π_l E_kl h_l.

Frequencies are those of the classes by which a run is grouped. What is recorded is by ``labels``, what samples are;
where classes are by ``given_labels`` instead, the frequency with which a sample given as m is trained on is

    π'_m = Σ_l π_l P(given m | is l),

the last factor being the share of the class' recorded samples that are given as m: right if the probe was drawn from
the training set within each class, as it has to be anyway for class means to stand for those of the training set. Where
the labels agree, π' = π. Frequencies that a caller gives are taken to be of the grouping that is fitted.

Equal frequencies, or none, are balanced sampling: nothing is weighted then, and numbers are what they are without.

tests/lesde_infer/test_frequencies.py checks the conversion against drawing, and what is refused.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from data_tools.recording_schema import check_class_frequencies
from lesde_infer.record_source import RecordSource
from lesde_infer.snapshots import Grouping

BALANCED_WITHIN = 1e-6
"""Relative difference of frequencies below which they count as equal."""


def class_frequencies(
    recording: RecordSource, group: Grouping, given: Sequence[float] | None = None
) -> Float[np.ndarray, " class_"] | None:
    """Return π of the classes of a grouping, or None if they are balanced or not known.

    Parameters
    ----------
    recording : RecordSource
        Its frequencies are used if none are given.
    group : {"labels", "given_labels"}
        The grouping.
    given : sequence of float, optional
        Frequencies of the classes of this grouping.

    Raises
    ------
    InputError
        If those given are not one positive number for each class, with sum 1.
    """
    classes = np.unique(recording.probe_labels(group))
    if given is not None:
        found = check_class_frequencies(given, len(classes), "class frequencies (--class-frequencies)")
    elif recording.class_frequencies is None:
        return None
    elif group == "labels":
        found = recording.class_frequencies
    else:
        n = recording.n_classes
        counts = np.zeros((n, n))
        np.add.at(counts, (recording.probe_labels("labels"), recording.probe_labels("given_labels")), 1.0)
        found = (recording.class_frequencies @ (counts / counts.sum(axis=1, keepdims=True)))[classes]
        found = found / found.sum()
    return None if np.ptp(found) <= BALANCED_WITHIN * found.max() else found


def class_weights(frequencies: Sequence[float] | Float[np.ndarray, " class_"] | None) -> np.ndarray | None:
    """Return w_l = K π_l, by which impacts are weighted, or None for balanced sampling."""
    return None if frequencies is None else len(frequencies) * np.asarray(frequencies, dtype=np.float64)
