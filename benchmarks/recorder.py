"""Ask what recording costs a training: how much longer it takes, and how much of that is the network's own evaluation.

Two trainings of the same network from the same start, one of them recorded, take turns in one process, so that a busy
machine slows both alike. A turn is as many steps as there are from record to record (8 at least), bursts of one record.
Networks: LeNet, a perceptron of width 512 and a residual network as ResNet-18 of an eighth of its width, or of its own
(`resnet18`, two seconds a step); batches of 32 random images, a probe of 300 in batches of 256, features of the last
two layers, on the CPU in one thread. Between turns the network is evaluated on the probe alone: what recording takes
beyond that is the recorder's own.

For each network and interval: the ratio of the times of the recorded training and the other, by wall clock and by
processor time (of all threads, the one that writes included); and, as the difference of two long times is noisy, the
processor time within calls of the recorder (in which its thread has a part): as a ratio, and in milliseconds a record,
in all and beyond the probe.

With `--memory`, 20,000 records of a small network are taken instead; memory is looked at every 250, and its slope in
bytes a record is fitted over the second half. (In the first, caches of HDF5 fill.)

    python benchmarks/recorder.py [--networks lenet mlp resnet resnet18] [--intervals 1 4 16 64 256] [--records 4]
        [--foreground] [--short] [--memory] [--json FILE]

Prints a table. `--short` leaves out the residual network and the longest intervals.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from data_tools.architectures import build_architecture
from data_tools.recorder import FeatureRecorder

K, PER_CLASS, BATCH, PROBE_BATCH, LEAST_TURN = 10, 30, 32, 256, 8


class ResidualBlock(nn.Module):
    """Two convolutions with batch normalisation, beside which the input is passed on."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate."""
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


def residual_network(width: int = 8) -> nn.Sequential:
    """Return ResNet-18 for images of 32×32, of `width` channels at first instead of 64."""
    stages: list[nn.Module] = []
    inputs = width
    for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
        stages += [ResidualBlock(inputs, outputs, stride), ResidualBlock(outputs, outputs, 1)]
        inputs = outputs
    stem = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, K))


@dataclass(frozen=True)
class Network:
    """A network, the images it takes and the layers to record."""

    make: Callable[[], nn.Module]
    image: tuple[int, int, int]
    layers: tuple[str, ...]


NETWORKS = {
    "lenet": Network(lambda: build_architecture("lenet", (1, 28, 28), K, seed=0), (1, 28, 28), ("fc2", "fc3")),
    "mlp": Network(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, K)
        ),
        (1, 28, 28),
        ("4", "5"),
    ),
    "resnet": Network(residual_network, (3, 32, 32), ("12", "13")),
    "resnet18": Network(lambda: residual_network(64), (3, 32, 32), ("12", "13")),
}
USUAL = ["lenet", "mlp", "resnet"]


class Training:
    """A training on random images."""

    def __init__(self, network: Network) -> None:
        torch.manual_seed(0)
        self.model = network.make()
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self._images, self._labels = torch.randn(BATCH, *network.image), torch.arange(BATCH) % K

    def steps(self, n_steps: int, recorder: FeatureRecorder | None = None) -> tuple[float, float, float]:
        """Make steps; return wall seconds, processor seconds, and those of them within the recorder."""
        wall, cpu, inside = time.perf_counter(), time.process_time(), 0.0
        for _ in range(n_steps):
            self._optimizer.zero_grad()
            cross_entropy(self.model(self._images), self._labels).backward()
            self._optimizer.step()
            if recorder is not None:
                start = time.process_time()
                recorder.step()
                inside += time.process_time() - start
        if recorder is not None:
            start = time.process_time()
            recorder.flush()
            inside += time.process_time() - start
        return time.perf_counter() - wall, time.process_time() - cpu, inside


def evaluate(model: nn.Module, images: Tensor) -> float:
    """Evaluate a network on the probe, as one would without a recorder; return processor seconds."""
    start = time.process_time()
    model.eval()
    with torch.no_grad():
        for batch in images.split(PROBE_BATCH):
            model(batch)
    model.train()
    return time.process_time() - start


@dataclass(frozen=True)
class Cost:
    """What recording costs at one interval."""

    network: str
    interval: int
    records: int
    step_milliseconds: float
    wall_ratio: float
    cpu_ratio: float
    recorder_cpu_ratio: float
    milliseconds_per_record: float
    probe_milliseconds: float
    milliseconds_beyond_probe: float


def measure(name: str, interval: int, n_records: int, *, background: bool) -> Cost:
    """Measure the cost at one interval, over so many records at least."""
    network = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        bare, recorded = Training(network), Training(network)
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(K * PER_CLASS, *network.image, generator=generator)
        recorder = FeatureRecorder(
            Path(folder) / "run.h5",
            recorded.model,
            (images, np.arange(K * PER_CLASS) % K),
            network.layers,
            every=interval,
            burst=1,
            probe_batch_size=PROBE_BATCH,
            background=background,
        )
        turn = max(interval, LEAST_TURN)
        n_turns = max(2, -(-n_records * interval // turn))
        with recorder:
            bare.steps(2)
            recorded.steps(2, recorder)  # makes the file
            without, with_, probe = np.zeros(3), np.zeros(3), []
            for number in range(n_turns):
                order = [(without, bare, None), (with_, recorded, recorder)]
                for total, training, its_recorder in order if number % 2 else reversed(order):
                    total += training.steps(turn, its_recorder)
                probe.append(evaluate(bare.model, images))
    records = n_turns * turn // interval
    per_record, of_probe = 1e3 * float(with_[2]) / records, 1e3 * float(np.median(probe))
    return Cost(
        network=name,
        interval=interval,
        records=records,
        step_milliseconds=1e3 * float(without[1]) / (n_turns * turn),
        wall_ratio=float(with_[0] / without[0]),
        cpu_ratio=float(with_[1] / without[1]),
        recorder_cpu_ratio=1.0 + float(with_[2] / without[1]),
        milliseconds_per_record=per_record,
        probe_milliseconds=of_probe,
        milliseconds_beyond_probe=per_record - of_probe,
    )


def resident_bytes() -> int:
    """Return how much memory of this process is resident (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_memory(n_records: int, *, background: bool) -> dict[str, Any]:
    """Take many records of a small network; return how memory grows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, K))
    probe = (torch.randn(100, 10), np.arange(100) % K)
    seen: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        with FeatureRecorder(path, model, probe, ["1", "2"], every=1, burst=1, background=background) as recorder:
            for step in range(n_records):
                recorder.step(lr=0.1)
                if step % 250 == 0:
                    seen.append(resident_bytes())
        size = path.stat().st_size
    late = np.asarray(seen[len(seen) // 2 :], dtype=np.float64)
    slope = float(np.polyfit(np.arange(late.size), late, 1)[0]) / 250
    return {"records": n_records, "file_bytes": size, "resident_bytes": seen, "slope_bytes_per_record": slope}


def main() -> None:
    """Measure, and print or write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=USUAL)
    parser.add_argument("--intervals", nargs="+", type=int, default=[1, 4, 16, 64, 256])
    parser.add_argument("--records", type=int, default=4, help="records at each interval, at least")
    parser.add_argument("--foreground", action="store_true", help="write without a thread")
    parser.add_argument("--short", action="store_true", help="leave out the residual network and long intervals")
    parser.add_argument("--memory", action="store_true", help="memory over 20,000 records instead")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    background = not arguments.foreground

    def keep(results: Any) -> None:
        if arguments.json:
            versions = {"python": sys.version.split()[0], "torch": torch.__version__, "numpy": np.__version__}
            arguments.json.write_text(json.dumps({"versions": versions, "results": results}, indent=1) + "\n")

    if arguments.memory:
        results = measure_memory(2000 if arguments.short else 20_000, background=background)
        keep(results)
        print(f"{results['slope_bytes_per_record']:.1f} bytes a record over the second half of {results['records']}")
    else:
        networks = [name for name in arguments.networks if not (arguments.short and name == "resnet")]
        intervals = [interval for interval in arguments.intervals if not (arguments.short and interval > 16)]
        print("network  interval  ms/step   ratio (cpu)  recorder  ms/record  of the probe  beyond", flush=True)
        costs: list[dict[str, Any]] = []
        for name in networks:
            for interval in intervals:
                cost = measure(name, interval, arguments.records, background=background)
                costs.append(asdict(cost))
                keep(costs)
                print(
                    f"{name:8} {interval:8} {cost.step_milliseconds:8.2f} {cost.wall_ratio:7.2f} {cost.cpu_ratio:6.2f} "
                    f"{cost.recorder_cpu_ratio:8.3f} {cost.milliseconds_per_record:10.1f} "
                    f"{cost.probe_milliseconds:13.1f} {cost.milliseconds_beyond_probe:7.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
