"""Exit codes, and errors that are no fault of the input."""

import sys

FAILURE = 1
BAD_INPUT = 2
INTERRUPTED = 130


class CommandError(RuntimeError):
    """A command could not do what it was asked; the message is the one line the user sees."""


# Where errors that tell of a failed computation are defined. They are compared only with modules that are already
# imported: looking must not import JAX.
_FAILED_COMPUTATIONS = (
    ("lesde_infer.inference", "ConvergenceError"),
    ("lesde_infer.predictive", "PredictionError"),
)


def is_failed_computation(error: Exception) -> bool:
    """Tell whether an error is one whose message is written for users."""
    return any(
        module in sys.modules and isinstance(error, getattr(sys.modules[module], name))
        for module, name in _FAILED_COMPUTATIONS
    )
