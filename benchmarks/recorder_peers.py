"""Ask what recording costs a training beside Cockpit's economy configuration, on the same networks in one process.

Cockpit (Schneider, Dangel and Hennig, NeurIPS 2021) tracks quantities of the gradients of a training; it is what there
is to be instrumented with, and records no features, so that only the cost is compared. Three trainings of one network
from the same start take turns: bare, recorded by `data_tools.FeatureRecorder` (a probe of 300, features of the last two
layers), and tracked by Cockpit, each once every so many steps; batches of 32 random images, on the CPU in one thread.
Cockpit's tracking needs BackPACK, which takes sequential networks of layers that it knows; the networks are such.
For each interval: processor time over that of the bare training, and milliseconds a record beyond a bare step.

    pip install --no-deps cockpit-for-pytorch backpack-for-pytorch einops unfoldNd json_tricks seaborn
    python benchmarks/recorder_peers.py [--networks lenet mlp] [--intervals 1 4 16 64 256] [--json FILE]
"""

import argparse
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from data_tools.recorder import FeatureRecorder

try:
    from backpack import extend
    from cockpit import Cockpit
    from cockpit.utils import schedules
    from cockpit.utils.configuration import configuration
except ImportError as error:
    sys.exit(f"needs Cockpit ({error}); install it as the docstring says")

K, PER_CLASS, BATCH, LEAST_TURN = 10, 30, 32, 8


def lenet() -> nn.Sequential:
    """Return LeNet, layer after layer."""
    convolutions = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()]
    linear = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, K)]
    return nn.Sequential(*convolutions, nn.MaxPool2d(2), nn.Flatten(), *linear)


def mlp() -> nn.Sequential:
    """Return a perceptron of width 512."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, K)
    )


NETWORKS = {"lenet": (lenet, ("10", "11")), "mlp": (mlp, ("4", "5"))}


class Training:
    """A training on random images, of a network that Cockpit can track."""

    def __init__(self, network: str, *, tracked: bool = False, interval: int = 1) -> None:
        torch.manual_seed(0)
        model = NETWORKS[network][0]()
        self.model = extend(model) if tracked else model
        loss = nn.CrossEntropyLoss()
        self._loss = extend(loss) if tracked else loss
        self._losses = nn.CrossEntropyLoss(reduction="none")
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        self._images, self._labels = torch.randn(BATCH, 1, 28, 28), torch.arange(BATCH) % K
        self._step = 0
        self._cockpit = None
        if tracked:
            quantities = configuration("economy", track_schedule=schedules.linear(interval))
            self._cockpit = Cockpit(self.model.parameters(), quantities=quantities)

    def steps(self, n_steps: int, recorder: FeatureRecorder | None = None) -> float:
        """Make steps; return processor seconds."""
        start = time.process_time()
        for _ in range(n_steps):
            self._optimizer.zero_grad()
            outputs = self.model(self._images)
            loss = self._loss(outputs, self._labels)
            if self._cockpit is None:
                loss.backward()
            else:
                told = {
                    "batch_size": BATCH,
                    "individual_losses": self._losses(outputs, self._labels),
                    "loss": loss,
                    "optimizer": self._optimizer,
                }
                with self._cockpit(self._step, info=told):
                    loss.backward(create_graph=self._cockpit.create_graph(self._step))
            self._optimizer.step()
            self._step += 1
            if recorder is not None:
                recorder.step()
        if recorder is not None:
            recorder.flush()
        return time.process_time() - start


def measure(network: str, interval: int, n_records: int) -> dict[str, Any]:
    """Measure the three trainings at one interval."""
    bare, recorded, tracked = Training(network), Training(network), Training(network, tracked=True, interval=interval)
    images = torch.randn(K * PER_CLASS, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    turn = max(interval, LEAST_TURN)
    n_turns = max(2, -(-n_records * interval // turn))
    seconds = np.zeros(3)
    with tempfile.TemporaryDirectory() as folder:
        probe = images, np.arange(K * PER_CLASS) % K
        layers = NETWORKS[network][1]
        recorder = FeatureRecorder(Path(folder) / "run.h5", recorded.model, probe, layers, every=interval, burst=1)
        with recorder:
            bare.steps(2)
            recorded.steps(2, recorder)  # makes the file
            tracked.steps(interval)  # stays in step with its schedule
            for _ in range(n_turns):
                seconds += bare.steps(turn), recorded.steps(turn, recorder), tracked.steps(turn)
    records = n_turns * turn / interval
    beyond = 1e3 * (seconds[1:] - seconds[0]) / records
    return {
        "network": network,
        "interval": interval,
        "records": int(records),
        "step_milliseconds": 1e3 * float(seconds[0]) / (n_turns * turn),
        "recorder_ratio": float(seconds[1] / seconds[0]),
        "cockpit_ratio": float(seconds[2] / seconds[0]),
        "recorder_milliseconds_per_record": float(beyond[0]),
        "cockpit_milliseconds_per_record": float(beyond[1]),
    }


def main() -> None:
    """Measure, and print or write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--intervals", nargs="+", type=int, default=[1, 4, 16, 64, 256])
    parser.add_argument("--records", type=int, default=8, help="records at each interval, at least")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    versions = {name: version(name) for name in ("torch", "cockpit-for-pytorch", "backpack-for-pytorch")}
    results: list[dict[str, Any]] = []
    print("network  interval  ms/step   recorder  cockpit   ms/record: recorder  cockpit", flush=True)
    for network in arguments.networks:
        for interval in arguments.intervals:
            found = measure(network, interval, arguments.records)
            results.append(found)
            print(
                f"{network:8} {interval:8} {found['step_milliseconds']:8.2f} {found['recorder_ratio']:10.2f} "
                f"{found['cockpit_ratio']:8.2f} {found['recorder_milliseconds_per_record']:20.1f} "
                f"{found['cockpit_milliseconds_per_record']:8.1f}",
                flush=True,
            )
            if arguments.json:
                arguments.json.write_text(json.dumps({"versions": versions, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
