"""Bursts and gaps are found where they are, and a schedule that thins out is no gap."""

import numpy as np
import pytest

from data_tools.timeline import Gap, timeline


@pytest.mark.parametrize(
    ("steps", "n_bursts", "length", "distance", "gaps"),
    [
        ([7], 1, 1, None, ()),
        ([0, 1, 2], 1, 3, None, ()),
        ([0, 5, 10, 15], 4, 1, 5, ()),
        ([s for s in range(200) if s % 20 < 2], 10, 2, 20, ()),
        ([s for s in range(400) if s % 20 < 2 and not 100 <= s < 200], 15, 2, 20, (Gap(81, 200),)),
        ([0, 5, 10, 15, 40, 45], 6, 1, 5, (Gap(15, 40),)),
        ([0, 5, 10, 15, 20, 99], 6, 1, 5, (Gap(20, 99),)),
        ([0, 80, 85, 90], 4, 1, 5, (Gap(0, 80),)),
        ([0, 80], 2, 1, 80, ()),
        (np.unique(np.geomspace(1, 10_000, 40).astype(int)).tolist(), None, None, None, ()),
        ([2**k for k in range(1, 12)], 11, 1, None, ()),
    ],
)
def test_timeline(steps, n_bursts, length, distance, gaps):
    found = timeline(np.array(steps))
    assert found.gaps == gaps
    if n_bursts is not None:
        assert (found.n_bursts, found.burst_length) == (n_bursts, length)
    if distance is not None or len(steps) < 4:
        assert found.burst_distance == distance
