"""Analysis needs no PyTorch, and neither the package nor the command's help starts what is slow."""

import subprocess
import sys

import pytest

SLOW = ("jax", "torch", "matplotlib", "sklearn", "numpyro", "xarray", "arviz_stats", "scipy")

WITHOUT_TORCH = """
import importlib, pkgutil, sys

class NoTorch:
    # Not sys.modules["torch"] = None: SciPy looks there to see what arrays it may be given.
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, NoTorch)
"""


def run(code, *arguments):
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_everything_but_recording_imports_without_torch():
    code = f"""{WITHOUT_TORCH}
import lesde_infer
for module in pkgutil.walk_packages(lesde_infer.__path__, "lesde_infer."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in lesde_infer.__all__:
    getattr(lesde_infer, name)
"""
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_recording_without_torch_names_the_extra_in_one_line(tmp_path):
    code = f"""{WITHOUT_TORCH}
from lesde_infer.cli import main
sys.exit(main(sys.argv[1:]))
"""
    result = run(code, "record", "--out", str(tmp_path / "run.h5"))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "lesde-infer[record]" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["--help"], *([name, "--help"] for name in ("fit", "moments", "select", "record", "demo"))]
)
def test_help_imports_nothing_slow(arguments):
    code = f"""
import sys
from lesde_infer.cli import main
code = main(sys.argv[1:])
print([name for name in {SLOW!r} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""
    result = run(code, *arguments)
    assert (result.returncode, result.stderr) == (0, "[]\n")
    assert "Usage: lesde" in result.stdout


def test_importing_the_package_imports_nothing_slow():
    result = run(f"import sys, lesde_infer; print([name for name in {SLOW!r} if name in sys.modules])")
    assert result.stdout == "[]\n", result.stderr


def test_every_public_name_is_bound():
    import lesde_infer

    for name in set(lesde_infer.__all__) - {"__version__"}:
        assert getattr(lesde_infer, name).__name__ == name
    assert set(lesde_infer.__all__) <= set(dir(lesde_infer))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lesde_infer.nothing
