"""The one place where JAX is imported and set to double precision.

Every module of ``lesde_infer`` that computes with JAX imports it from here, so that no computation
can run in single precision by accident: log likelihoods here sum 10⁵ terms, and rates span five
orders of magnitude.
"""

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)

__all__ = ["jax", "jnp"]
