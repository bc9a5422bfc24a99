"""The law of data separation on features whose fuzziness is known."""

import numpy as np
import pytest

from data_tools import InputError
from lesde_infer.collapse import nc1
from lesde_infer.layer_separation import layer_separation

LABELS = np.repeat(np.arange(3), 10)


def layer(scatter, seed=0):
    """Return features with one fixed draw of scatter: fuzziness goes with its square."""
    noise = np.random.default_rng(seed).normal(size=(30, 4))
    noise -= np.stack([noise[k == LABELS].mean(axis=0) for k in range(3)])[LABELS]
    return np.eye(3, 4)[LABELS] + scatter * noise


def test_a_geometric_fall_is_found():
    """Scatter halves from layer to layer, so fuzziness falls to a quarter each time."""
    features = {f"fc{number}": layer(0.5**number) for number in range(4)}
    found = layer_separation(features, LABELS)
    assert found.layers == ("fc0", "fc1", "fc2", "fc3")
    assert found.decay_ratio == pytest.approx(0.25)
    assert found.correlation == pytest.approx(-1.0)
    assert found.fuzziness[1] == pytest.approx(nc1(features["fc1"], LABELS, "papyan"))


def test_the_order_is_that_of_the_network_where_it_is_given():
    features = {"last": layer(0.1), "first": layer(0.4), "middle": layer(0.2)}
    found = layer_separation(features, LABELS, order=["first", "middle", "last"])
    assert found.decay_ratio == pytest.approx(0.25)
    assert layer_separation(features, LABELS).correlation > -0.9


def test_irregular_layers_are_less_correlated():
    features = {str(place): layer(scatter) for place, scatter in enumerate((0.4, 0.1, 0.3, 0.05))}
    assert -0.95 < layer_separation(features, LABELS).correlation < 0.0


def test_what_has_no_fuzziness_is_left_out_and_said_to_be_unknown():
    features = {"flat": np.ones((30, 4)), "one": layer(0.4), "two": layer(0.2)}
    found = layer_separation(features, LABELS)
    assert found.to_json()["fuzziness"][0] is None
    assert found.decay_ratio == pytest.approx(0.25)
    assert found.to_json()["correlation"] is None  # of two points it says nothing
    assert layer_separation({"one": layer(0.4)}, LABELS).to_json()["decay_ratio"] is None


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(InputError, match="layer 'fc9' is not among fc1"):
        layer_separation({"fc1": layer(0.4)}, LABELS, order=["fc9"])
