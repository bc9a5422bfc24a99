"""A normal prior of a number whose posterior may lie close to one, sampled on a scale that is logarithmic there.

Where x may be anything the coordinate v with

    x = 1 − ε sinh v,        log |dx/dv| = log(ε cosh v),

is linear in x within ε of one, and logarithmic in |1 − x| beyond. A slope of step sizes b (`lesde_infer.model`) of
0.98, say, is known by quiet intervals, whose drift is in proportion to 1 − b, up to a factor: in b its posterior is far
steeper on one side than it is wide. With ε of the order of one v is as good as x itself. Only the coordinate is
stretched; the density of x is that of the normal (tests/lesde_infer/test_stretched_normal.py).
"""

from typing import Any, TypeAlias

import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform, biject_to

from lesde_infer._jax import jnp

Numbers: TypeAlias = Float[Array, "..."] | Float[np.ndarray, "..."] | float


class StretchedNormal(dist.Normal):  # type: ignore[misc]  # NumPyro is not typed
    """Normal whose unconstrained coordinate is arcsinh((1 − x)/ε).

    Parameters
    ----------
    loc, scale : array
        Mean and standard deviation.
    stretch : array
        ε, positive.
    """

    pytree_data_fields = ("stretch",)

    def __init__(self, loc: Float[Array, "..."], scale: Float[Array, "..."], stretch: Float[Array, "..."]) -> None:
        self.stretch = stretch
        super().__init__(loc, scale)

    @property
    def support(self) -> "StretchedReal":
        """All numbers, and how they are stretched."""
        return StretchedReal(self.stretch)


class StretchedReal(constraints.Constraint):  # type: ignore[misc]
    """All real numbers, whose coordinate is stretched."""

    def __init__(self, stretch: Float[Array, "..."]) -> None:
        self.stretch = stretch

    def __call__(self, x: Float[Array, "..."]) -> Array:
        """Tell which are numbers."""
        return jnp.isfinite(x)

    def feasible_like(self, prototype: Float[Array, "..."]) -> Float[Array, "..."]:
        """Return zeros."""
        return jnp.zeros_like(prototype)

    def tree_flatten(self) -> Any:
        """Tell JAX what it is made of."""
        return (self.stretch,), (("stretch",), {})

    def __eq__(self, other: object) -> Any:
        """Whether another stretches alike."""
        return isinstance(other, StretchedReal) and jnp.array_equal(self.stretch, other.stretch)

    __hash__ = None  # type: ignore[assignment]  # it holds an array


class Stretch(Transform):  # type: ignore[misc]
    """v ↦ 1 − ε sinh v."""

    domain = constraints.real
    codomain = constraints.real

    def __init__(self, stretch: Numbers) -> None:
        self.stretch = stretch

    def __call__(self, x: Numbers) -> Float[Array, "..."]:
        """Return the number at a coordinate."""
        return 1.0 - jnp.asarray(self.stretch) * jnp.sinh(x)

    def _inverse(self, y: Numbers) -> Float[Array, "..."]:
        return jnp.arcsinh((1.0 - y) / self.stretch)

    def log_abs_det_jacobian(self, x: Numbers, y: Numbers | None, intermediates: Any = None) -> Float[Array, "..."]:
        """Return log(ε cosh v)."""
        return jnp.log(self.stretch * jnp.cosh(x))

    def tree_flatten(self) -> Any:
        """Tell JAX what it is made of."""
        return (self.stretch,), (("stretch",), {})

    def __eq__(self, other: object) -> Any:
        """Whether another stretches alike."""
        return isinstance(other, Stretch) and jnp.array_equal(self.stretch, other.stretch)

    __hash__ = None  # type: ignore[assignment]  # it holds an array


@biject_to.register(StretchedReal)  # type: ignore[untyped-decorator]
def _stretch(support: StretchedReal) -> Stretch:
    return Stretch(support.stretch)
