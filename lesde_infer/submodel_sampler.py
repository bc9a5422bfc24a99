"""Chains of one submodel: mode, warm-up and draws, more draws where they are wanted, smaller steps where some diverge.

Most divergent transitions are rare excursions to where rates are large and the likelihood is stiffer than at the mode:
one or a few in a thousand draws of chains that mix well. So chains first go on from where they are with a part of their
step size, and what they drew so far is thrown away, which costs two or three times as much as the same draws without;
new chains, with a long warm-up, are for those that diverge again and again. (Simulations of L/gp, of which every other
had some, took ten times as long while all such chains were replaced.)
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from lesde_infer._jax import jax
from lesde_infer.assembly import Submodel
from lesde_infer.mode import find_mode, spread_around
from lesde_infer.model import StrataData
from lesde_infer.padding import drop_padding, pad_intervals
from lesde_infer.sampling import Chains, SampleRun, iterations
from lesde_infer.slope_profile import follow_slope
from lesde_infer.variant import Points, Position, Variant

WARMUP, ACCEPTANCE = 150, 0.9  # chains start whitened, at steps of the right scale: longer warm-ups mixed no better
SMALLER_STEP, SHORTENINGS = 0.4, 2  # of the step size, where transitions diverged, and how often
CAREFUL_WARMUP = 600  # of new chains, where transitions diverged in spite of smaller steps
CAREFUL_ACCEPTANCES = (0.99, 0.998)  # of those, and of others where transitions of theirs diverged again

Report = Callable[[int], None]
"""Called with the iterations just done; an exception it raises ends the sampling."""


class SubmodelSampler:
    """Chains of one submodel, begun when they are first run.

    Parameters
    ----------
    submodel : Submodel
        What is sampled.
    key : jax.Array
        Seed.
    n_chains : int
        Number of chains.
    """

    def __init__(self, submodel: Submodel, key: jax.Array, n_chains: int) -> None:
        self._variant, self._key, self._n_chains = submodel.variant, key, n_chains
        self._n_intervals = len(submodel.data.n_steps)
        self._data = pad_intervals(submodel.data) if isinstance(submodel.data, StrataData) else submodel.data
        self._n_warmup, self._acceptance = WARMUP, ACCEPTANCE
        self._chains: Chains | None = None
        self._shortenings_left = SHORTENINGS

    @property
    def program(self) -> tuple[Variant, float]:
        """What tells compiled programs apart."""
        return self._variant, self._acceptance

    @property
    def divergences(self) -> int:
        """Divergent transitions after warm-up."""
        return 0 if self._chains is None else self._chains.divergences

    @cached_property
    def _mode(self) -> tuple[Position, Points, Position]:
        """Where chains start, the whitening there and how far they scatter, for careful chains the same."""
        mode, points = find_mode(self._variant, self._data)
        if isinstance(self._data, StrataData) and self._data.lean is not None:
            mode, self._data = follow_slope(self._variant, self._data, mode, points)
        return mode, points, spread_around(self._variant, self._data, mode, points)

    def iterations_left(self, n_draws: int) -> int:
        """Return how many iterations `run_until` will take."""
        done = 0 if self._chains is None else self._chains.n_done
        return max(iterations(self._n_warmup) + iterations(n_draws) - done, 0)

    def begin(self, report: Report) -> Chains:
        """Find the mode and run for a moment, unless that was done; it compiles all that is needed."""
        if self._chains is None:
            mode = self._mode  # before data, which are given coordinates there
            chains = Chains(
                self._variant,
                self._data,
                *mode,
                key=self._key,
                n_chains=self._n_chains,
                n_warmup=self._n_warmup,
                target_acceptance=self._acceptance,
            )
            report(chains.advance())
            self._chains = chains
        return self._chains

    def run_until(self, n_draws: int, report: Report) -> None:
        """Sample until each chain has that many draws; where transitions diverge chains take smaller steps."""
        chains = self.begin(report)
        while self.iterations_left(n_draws):
            report(chains.advance())
            if not self.divergences:
                continue
            if self._shortenings_left:
                self._shortenings_left -= 1
                chains.take_smaller_steps(SMALLER_STEP)
            elif self._acceptance < CAREFUL_ACCEPTANCES[-1]:
                self._acceptance = min(a for a in CAREFUL_ACCEPTANCES if a > self._acceptance)
                self._n_warmup, self._chains = CAREFUL_WARMUP, None
                chains = self.begin(report)

    @property
    def n_draws(self) -> int:
        """Draws of each chain so far."""
        return 0 if self._chains is None else self._chains.n_draws

    def draws(self, n_draws: int | None = None) -> SampleRun:
        """Return all draws so far, or so many of them, evenly spread."""
        if self._chains is None:
            raise RuntimeError("nothing was sampled yet")
        run = self._chains.draws(n_draws)
        return replace(
            run,
            parameters=drop_padding(run.parameters, self._n_intervals),
            log_likelihood=run.log_likelihood[..., : self._n_intervals],
        )
