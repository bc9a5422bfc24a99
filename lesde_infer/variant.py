"""What is sampled: a kind of model, its data, and its whitened coordinates.

Submodels may be sampled in threads side by side: programs run without Python's lock. Only tracing, in which NumPyro
keeps its handlers in a stack of the whole process, is done by one thread at a time (`traced_alone`).
"""

from collections.abc import Callable
from functools import partial, wraps
from threading import RLock
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

import numpyro
from jaxtyping import Array, Float
from numpyro.infer.util import constrain_fn, log_density, potential_energy

from lesde_infer._jax import jnp
from lesde_infer.whitening import ConditionalWhitening, WhiteningPoint

Position = dict[str, Array]
Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")

_tracing = RLock()


def traced_alone(function: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
    """Let one thread at a time run a function that runs a NumPyro model, which happens only while it is traced."""

    @wraps(function)
    def alone(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        with _tracing:
            return function(*args, **kwargs)

    return alone


class Variant(Protocol):
    """A kind of model, hashable, so that it is compiled once: its equations without its data."""

    def __hash__(self) -> int:
        """Equal variants compile to the same program."""

    @property
    def dense_mass(self) -> bool:
        """Whether hyperparameters lean on each other so much that NUTS needs a dense mass matrix."""

    def model(self, data: Any) -> None:
        """Run the NumPyro model in its own coordinates; its likelihood is the site ``increment``."""

    def parameters(self, values: Position, data: Any) -> NamedTuple:
        """Return what is kept of a draw, from values of the model's sites."""

    def information(self, values: Position, data: Any) -> Position:
        """Return the information of the likelihood in each site that is whitened, shape (*row*, entry, entry)."""

    def whitened_shapes(self, data: Any) -> dict[str, tuple[int, int]]:
        """Return the shapes (row, entry) of the sites that are whitened, normal a priori given all others."""


Points = dict[str, WhiteningPoint]


def whitened_model(variant: Variant, data: Any, points: Points) -> None:
    """Run the model in whitened coordinates."""
    with numpyro.handlers.reparam(config={site: ConditionalWhitening(point) for site, point in points.items()}):
        variant.model(data)


def interval_log_likelihood(variant: Variant, values: Position, data: Any) -> Float[Array, "stratum time"]:
    """Log density of each interval at values of the model's sites."""
    _, trace = log_density(variant.model, (data,), {}, values)
    return trace["increment"]["fn"].log_prob(trace["increment"]["value"])


def non_centred(variant: Variant, data: Any) -> Points:
    """Return the whitening without information, which is the non-centred parametrisation."""
    return {
        site: WhiteningPoint(jnp.zeros((*shape, shape[-1])), jnp.zeros(shape))
        for site, shape in variant.whitened_shapes(data).items()
    }


@traced_alone
def whitened_potential(variant: Variant, position: Position, data: Any, points: Points) -> Array:
    """Return minus the log posterior in whitened, unconstrained coordinates."""
    return potential_energy(partial(whitened_model, variant), (data, points), {}, position)


def site_values(variant: Variant, position: Position, data: Any, points: Points) -> Position:
    """Return the model's own sites at an unconstrained position, without those that whitening adds."""
    model = partial(whitened_model, variant)
    values = constrain_fn(model, (data, points), {}, position, return_deterministic=True)
    return {name: v for name, v in values.items() if not name.endswith(("_whitened", "_jacobian"))}


def at_origin(position: Position) -> Position:
    """Put whitened weights at the origin, where they are at their own mode."""
    return {name: jnp.zeros_like(v) if name.endswith("_whitened") else v for name, v in position.items()}
