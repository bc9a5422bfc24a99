"""The strata of homogeneous elasticity, as what is sampled (`lesde_infer.variant.Variant`)."""

from dataclasses import dataclass

import numpyro
from jaxtyping import Array

from lesde_infer._jax import jnp
from lesde_infer.curves import Curve, n_weights
from lesde_infer.information import curve_information
from lesde_infer.model import Parameters, StrataData, sample_parameters, strata_model


@dataclass(frozen=True)
class StrataVariant:
    """Family of curves, whether strata are coupled, whether lengths are mixed, and sizes known: `lesde_infer.model`."""

    curve: Curve
    coupled: bool
    mixed: bool
    sized: bool = False

    @property
    def dense_mass(self) -> bool:
        """The time scale of a power law leans on its level and exponent."""
        return self.curve == "power"

    def model(self, data: StrataData) -> None:
        """Run the model."""
        strata_model(data, curve=self.curve, coupled=self.coupled, mixed=self.mixed, sized=self.sized)

    def parameters(self, values: dict[str, Array], data: StrataData) -> Parameters:
        """Return the parameters of the strata at values of the model's sites."""
        substituted = numpyro.handlers.substitute(sample_parameters, data=values)
        return substituted(data, curve=self.curve, mixed=self.mixed, sized=self.sized)

    def information(self, values: dict[str, Array], data: StrataData) -> dict[str, Array]:
        """Return the information in the weights of each curve."""
        weights, time_scale = values["curve_weights"], values.get("power_time_scale", jnp.zeros(()))
        parameters = self.parameters(values, data)
        own = curve_information(parameters, weights, time_scale, data, curve=self.curve, coupled=self.coupled)
        return {"curve_weights": own}

    def whitened_shapes(self, data: StrataData) -> dict[str, tuple[int, int]]:
        """Return the shape of the weights."""
        return {"curve_weights": (len(data.prior.level_mean), n_weights(self.curve))}
