"""Networks have the layers they promise, for every image size in use."""

import pytest
import torch

from data_tools import InputError
from data_tools.architectures import DEFAULT_LAYERS, build_architecture


@pytest.mark.parametrize("name", DEFAULT_LAYERS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (1, 32, 32), (3, 32, 32), (1, 20, 21)])
def test_last_layer_gives_the_logits_from_the_recorded_layer(name, shape):
    model = build_architecture(name, shape, 4, seed=0).eval()
    seen = {}
    for layer in DEFAULT_LAYERS[name]:
        model.get_submodule(layer).register_forward_hook(lambda _m, _i, out, layer=layer: seen.update({layer: out}))
    output = model(torch.zeros(5, *shape))
    assert output.shape == (5, 4)
    assert torch.equal(seen["fc3"], output)
    if name != "linear":
        assert torch.equal(model.fc3(seen["fc2"]), output)
        assert seen["fc2"].min() >= 0  # after its activation


def test_lenet_has_the_papers_sizes():
    model = build_architecture("lenet", (1, 32, 32), 3, seed=0)
    sizes = [tuple(parameter.shape) for name, parameter in model.named_parameters() if name.endswith("weight")]
    assert sizes == [(6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (3, 84)]


def test_weights_follow_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (build_architecture("mlp", (1, 8, 8), 3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.fc3.weight, second.fc3.weight)
    assert not torch.equal(first.fc3.weight, other.fc3.weight)


def test_batch_normalisation_is_where_it_is_said_to_be():
    kinds = {
        name: [type(m).__name__ for m in build_architecture(name, (1, 8, 8), 3, 0).modules()] for name in DEFAULT_LAYERS
    }
    assert kinds["cnn_batchnorm"].count("BatchNorm2d") == 2
    assert "BatchNorm2d" not in kinds["cnn"]
    assert kinds["residual"].count("BatchNorm2d") == 6


@pytest.mark.parametrize("name", DEFAULT_LAYERS)
def test_every_network_learns_four_blobs(name):
    """Four classes, a bright quarter each: a few dozen steps bring the loss down."""
    torch.manual_seed(0)
    labels = torch.arange(64) % 4
    images = 0.1 * torch.randn(64, 1, 8, 8)
    for sample, label in enumerate(labels.tolist()):
        row, column = divmod(label, 2)
        images[sample, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1.0
    model = build_architecture(name, (1, 8, 8), 4, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def test_a_transformer_sees_where_a_patch_lies():
    model = build_architecture("transformer", (1, 8, 8), 4, seed=0).eval()
    image = torch.randn(1, 1, 8, 8)
    assert not torch.allclose(model(image), model(image.flip(3)), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnet", (1, 8, 8), "no architecture 'resnet'; choose one of lenet"),
        ("cnn", (1, 3, 8), "3×8 pixels are too small"),
    ],
)
def test_requests_that_cannot_be_met(name, shape, message):
    with pytest.raises(InputError, match=message):
        build_architecture(name, shape, 3, seed=0)
