"""Reading needs neither PyTorch nor JAX; recording needs no JAX."""

import subprocess
import sys

import pytest


def import_without(blocked, modules):
    code = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n" + "".join(
        f"import {module}\n" for module in modules
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


RECORDING = ["data_tools", "data_tools.recording", "data_tools.recording_writer", "data_tools.recovery"]


@pytest.mark.parametrize(
    ("blocked", "modules"),
    [
        (
            ["jax", "jaxlib", "numpyro", "lightning", "transformers"],
            [*RECORDING, "data_tools.recorder", "data_tools.experiments", "data_tools.convert", "data_tools.replaying"],
        ),
        (["torch", "jax", "jaxlib"], [*RECORDING, "data_tools.convert", "data_tools.datasets"]),
    ],
)
def test_modules_import_without_what_they_do_not_need(blocked, modules):
    result = import_without(blocked, modules)
    assert result.returncode == 0, result.stderr


def test_the_recorder_does_need_torch():
    assert import_without(["torch"], ["data_tools.recorder"]).returncode != 0


@pytest.mark.parametrize("trainer", ["lightning", "transformers"])
def test_a_trainer_that_is_missing_is_named(trainer):
    result = import_without([trainer], [f"data_tools.{trainer}"])
    assert result.returncode != 0
    assert f", of which {trainer}" in result.stderr
    assert f"is not installed; pip install 'lesde-infer[{trainer}]'" in result.stderr


def test_every_public_name_is_bound():
    import data_tools

    for name in data_tools.__all__:
        assert getattr(data_tools, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = data_tools.nothing
