"""Inner products of deviations from class means and of how they change over an interval, in one pass over its samples.

Deviations δ of n samples in p dimensions are not written down. With class means known, all products follow from those
of the features x and of their increments d, and from coordinates along a few axes Q:

    |Δ|² = Σ|d|² − Σₖ nₖ|mₖ|²,        ⟨δ', Δ⟩ = Σ⟨x', d⟩ − Σₖ nₖ⟨Mₖ', mₖ⟩,        Δ = δ' − δ,

mₖ the increment of the mean Mₖ. Q holds the axes of the contrasts between class means, and after them what else the
pushes q = V(r − r̄) span; across the contrasts there is besides what Q leaves, and there is no push. Where a difference
leaves less than `KEPT` of what it is taken from, sums are taken once more, sample by sample.

tests/lesde_infer/test_deviation_sums.py holds both ways against sums written out.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from lesde_infer.class_average import KEPT, ClassAverage
from lesde_infer.deviations import axes_beyond_rounding
from lesde_infer.sample_blocks import blocks, dot, over_parts, own_block, times
from lesde_infer.within_statistics import TINY, DeviationProducts, PartProducts

FEW = 8  # axes beyond twice those that are needed, up to which Q spans all of the feature space

FIRST = 64  # samples


class Push(NamedTuple):
    """What pushes samples besides their class: q = V(r − r̄).

    ``residuals`` (given class, sample) are less the means of their classes, ``weight`` (given class, feature) is Vᵀ.
    """

    residuals: Float[np.ndarray, "given_class sample"]
    weight: Float[np.ndarray, "given_class feature"]


class Moment(NamedTuple):
    """Features of some samples as stored, their class means, and the sum of the squares of deviations from these."""

    features: Float[np.ndarray, "sample feature"]
    means: Float[np.ndarray, "class_ feature"]
    deviation_square: float


class _Written(NamedTuple):
    """Deviations, their change, and what pushes them, of some samples."""

    before: Float[np.ndarray, "some feature"]
    change: Float[np.ndarray, "some feature"]
    push: Float[np.ndarray, "some feature"]

    def along(self, axes: Float[np.ndarray, "axis feature"]) -> "_Written":
        return _Written(*(values @ axes.T @ axes for values in self))

    def less(self, other: "_Written") -> "_Written":
        return _Written(*(values - own for values, own in zip(self, other, strict=True)))


class _Sums(NamedTuple):
    """Products of a part of deviations δ, their change Δ, and the push q."""

    square: float
    product: float
    change_square: float
    push_square: float = 0.0
    push_before: float = 0.0
    push_change: float = 0.0

    @classmethod
    def of(
        cls,
        before: Float[np.ndarray, "*shape"],
        change: Float[np.ndarray, "*shape"],
        push: Float[np.ndarray, "*shape"] | None,
    ) -> "_Sums":
        own = dot(before, before), dot(before, change), dot(change, change)
        return cls(*own) if push is None else cls(*own, dot(push, push), dot(push, before), dot(push, change))

    @classmethod
    def total(cls, parts: Sequence["_Sums"]) -> "_Sums":
        return cls(*np.sum(parts, axis=0).tolist())

    def alone(self) -> "_Sums":
        """Return the same without the push."""
        return _Sums(self.square, self.product, self.change_square)

    def products(self, axes: int) -> PartProducts:
        """Return the products with q°, what is left of the push when deviations have explained what they can."""
        share = self.push_before / max(self.square, TINY)
        left = self.push_square - share * self.push_before
        return PartProducts(*self[:3], max(left, 0.0), self.push_change - share * self.product, axes)


class DeviationSums:
    """Takes the products of one interval.

    Parameters
    ----------
    before, after : Moment
        At its start and at its end.
    average : ClassAverage
        Of the samples.
    push : Push or None
        At its start.
    """

    def __init__(self, before: Moment, after: Moment, average: ClassAverage, push: Push | None) -> None:
        self.before, self.after, self.average, self.push = before, after, average, push
        axes = axes_beyond_rounding(before.means, before.deviation_square / before.features.size)
        self.axes: Float[np.ndarray, "axis feature"] = axes[axes.any(axis=1)]

    def moved(self) -> bool:
        """Whether any feature of any sample changes."""
        ends = (slice(None, FIRST), slice(FIRST, None))  # nearly always the first tell
        return any(not np.array_equal(self.before.features[own], self.after.features[own]) for own in ends)

    def products(self) -> DeviationProducts:
        """Return the products of all deviations, along the axes and across them."""
        found = self._quickly()
        return self._one_by_one() if found is None else found

    def _quickly(self) -> DeviationProducts | None:
        """Return the products; None where too few digits are left."""
        width, n_along = self.before.means.shape[1], len(self.axes)
        basis = self._basis()
        turned = np.ascontiguousarray(basis.T)
        mean_change = self.after.means - self.before.means
        centres, change_centres = self.after.means @ turned, mean_change @ turned
        both = slice(None, n_along), slice(n_along, None)

        pushed = self.push
        pushes = [None if pushed is None else pushed.weight @ turned[:, own] for own in both]

        def add(part: slice) -> tuple[list[_Sums], float, float]:
            memory = {name: own_block(name) for name in ("values", "change", "along_values", "along_change", "centres")}
            found: list[list[_Sums]] = [[], []]
            product = change_square = 0.0
            for block in blocks(part, width):
                values = memory["values"].of(self.after.features[block])
                moved = memory["change"].less(values, self.before.features[block])
                product += dot(values, moved)
                change_square += dot(moved, moved)
                shape, groups = (len(values), len(basis)), self.average.groups[block]
                after = times(values, turned, memory["along_values"].empty(shape))
                change = times(moved, turned, memory["along_change"].empty(shape))
                own_centres = memory["centres"].empty(shape)
                change -= np.take(change_centres, groups, axis=0, out=own_centres, mode="clip")
                after -= np.take(centres, groups, axis=0, out=own_centres, mode="clip")
                after -= change  # δ, where it was δ'
                for own, weight, sums in zip(both, pushes, found, strict=True):
                    push = None if pushed is None or weight is None else times(pushed.residuals[:, block].T, weight)
                    of_axes = np.ascontiguousarray(after[:, own]), np.ascontiguousarray(change[:, own])
                    sums.append(_Sums.of(*of_axes, push))
            return [_Sums.total(own) for own in found], product, change_square

        parts = over_parts(self.after.features.shape, add)
        along, rest = (_Sums.total(own) for own in zip(*(part[0] for part in parts), strict=True))
        if len(basis) == width:
            whole, across = _Sums.total([along, rest]).alone(), rest
        else:
            product, increments = sum(part[1] for part in parts), sum(part[2] for part in parts)
            sizes = self.average.sizes
            change_square = increments - float(sizes @ (mean_change**2).sum(axis=1))
            product -= float(sizes @ (self.after.means * mean_change).sum(axis=1)) + change_square
            whole = _Sums(self.before.deviation_square, product, change_square)
            across = rest._replace(
                square=whole.square - along.square,
                product=whole.product - along.product,
                change_square=whole.change_square - along.change_square,
            )
            features = whole.square + float(sizes @ (self.before.means**2).sum(axis=1))
            if not (across.square >= KEPT * features and across.change_square >= KEPT * increments):
                return None
        found = DeviationProducts(whole.products(width), along.products(n_along), across.products(width - n_along))
        left = found.along.push_square + found.across.push_square
        return found if left >= KEPT * (along.push_square + across.push_square) else None

    def _basis(self) -> Float[np.ndarray, "axis feature"]:
        """Return Q: the axes, what else pushes span, and, where that is little more, all the rest."""
        n_along, width = self.axes.shape
        spanned = [self.axes] if self.push is None else [self.axes, self.push.weight]
        if width <= 2 * sum(len(own) for own in spanned) + FEW:
            spanned.append(np.eye(width))
        elif self.push is None:
            return self.axes
        others = np.linalg.qr(np.concatenate(spanned).T)[0].T[n_along:]
        return np.concatenate([self.axes, others])

    def _one_by_one(self) -> DeviationProducts:
        """Return the products, with deviations and pushes of each sample written down, a block of them at a time."""
        shape, n_along = self.before.features.shape, len(self.axes)
        width = shape[1]

        def add(part: slice) -> list[_Sums]:
            found = [[_Sums.of(*own) for own in written] for written in self._written_down(part)]
            return [_Sums.total(own) for own in zip(*found, strict=True)]

        sums = [_Sums.total(own) for own in zip(*over_parts(shape, add), strict=True)]
        whole, *parts = (own.products(axes) for own, axes in zip(sums, (width, n_along, width - n_along), strict=True))
        if self.push is None:
            return DeviationProducts(whole, *parts)
        shares = [own.push_before / max(own.square, TINY) for own in sums[1:]]

        def add_left(part: slice) -> np.ndarray:
            """Add up |q°|² and ⟨q°, Δ⟩ along and across."""
            found = np.zeros((2, 2))
            for _, *written in self._written_down(part):
                for place, ((before, change, push), share) in enumerate(zip(written, shares, strict=True)):
                    left = push - share * before
                    found[place] += dot(left, left), dot(left, change)
            return found

        left = np.sum(over_parts(shape, add_left), axis=0).tolist()
        return DeviationProducts(
            whole,
            *(own._replace(push_square=more[0], push_product=more[1]) for own, more in zip(parts, left, strict=True)),
        )

    def _written_down(self, part: slice) -> Iterator[tuple[_Written, _Written, _Written]]:
        """Yield δ, Δ and q of blocks of samples: whole, along the axes, and across them."""
        width = self.before.features.shape[1]
        for block in blocks(part, width):
            groups = self.average.groups[block]
            before = self.before.features[block] - self.before.means[groups]
            change = self.after.features[block] - self.after.means[groups] - before
            push = np.zeros(before.shape)
            if self.push is not None:
                push = self.push.residuals[:, block].T @ self.push.weight
            written = _Written(before, change, push)
            along = written.along(self.axes)
            yield written._replace(push=np.zeros(before.shape)), along, written.less(along)
