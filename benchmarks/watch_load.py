"""Ask how much `lesde watch` slows the training that it watches, beyond the core that it uses.

A perceptron trains on one core, recorded every ten steps; `lesde watch`, with its fits in the background, runs on
another. Every few seconds it is stopped and let go on (SIGSTOP and SIGCONT, all of its processes), and the pace of the
training with it at work is divided by that without, neighbour by neighbour: what else a machine does disturbs both
alike. Needs two cores.

A core that is busy slows its neighbour on most machines, whatever it does. `--control` puts a process of the lowest
priority that only counts in the place of `lesde watch`: what is lost to it is what using a core costs there.

    python benchmarks/watch_load.py [--pairs N] [--block SECONDS] [--control] [--json FILE]

Prints JSON: the median ratio of seconds a step, with and without, its standard error over pairs, and the ratio of the
processor time a step, which tells contention for caches from waiting for a core.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from json_result import give
from recorder import NETWORKS, K, Training

from data_tools.recorder import FeatureRecorder
from data_tools.recording import Recording

EVERY, PER_CLASS, FIRST_STEPS = 10, 30, 400
COUNT = "import os; os.nice(19); n = 0\nwhile True: n += 1"


def tell(process: subprocess.Popen[bytes], what: signal.Signals) -> None:
    """Send a signal to a process and all that it started."""
    os.killpg(process.pid, what)


def block(training: Training, recorder: FeatureRecorder, seconds: float) -> tuple[float, float]:
    """Train for some seconds; return wall and processor seconds a step."""
    start, cpu, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        training.steps(EVERY, recorder)
        steps += EVERY
    return (time.perf_counter() - start) / steps, (time.process_time() - cpu) / steps


def main() -> None:
    """Run the benchmark and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--block", type=float, default=4.0, help="seconds that watching is on, or off")
    parser.add_argument("--control", action="store_true", help="a process that only counts, instead of lesde watch")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("needs two cores")
    torch.set_num_threads(1)
    network = NETWORKS["mlp"]
    training = Training(network)
    probe, labels = torch.randn(K * PER_CLASS, *network.image), torch.arange(K * PER_CLASS) % K
    result: dict[str, Any] = {"cores": len(cores), "load_average": os.getloadavg(), "pairs": arguments.pairs}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        recorder = FeatureRecorder(path, training.model, (probe, labels), network.layers, every=EVERY, burst=1)
        with recorder:
            recorder.step()
            training.steps(FIRST_STEPS, recorder)
            command = [sys.executable, "-m", "lesde_infer.cli", "watch", str(path)]
            if arguments.control:
                command = [sys.executable, "-c", COUNT]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as watcher:
                os.sched_setaffinity(watcher.pid, {cores[1]})
                os.sched_setaffinity(0, {cores[0]})
                time.sleep(20.0)  # it has begun to fit
                ratios = []
                for pair in range(arguments.pairs):
                    found = {}
                    for at_work in (True, False) if pair % 2 else (False, True):
                        tell(watcher, signal.SIGCONT if at_work else signal.SIGSTOP)
                        found[at_work] = block(training, recorder, arguments.block)
                    ratios.append(np.array(found[True]) / np.array(found[False]))
                tell(watcher, signal.SIGCONT)
                tell(watcher, signal.SIGTERM)
        with Recording(path) as recording:
            result["records"] = recording.n_records
    wall, processor = np.array(ratios).T
    result["watched_by"] = "a process that counts" if arguments.control else "lesde watch"
    result["wall_ratio"], result["processor_ratio"] = float(np.median(wall)), float(np.median(processor))
    result["wall_ratio_error"] = float(1.25 * wall.std(ddof=1) / np.sqrt(len(wall)))  # of a median of normal values
    give(result, arguments.json)


if __name__ == "__main__":
    main()
