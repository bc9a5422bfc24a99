"""Ask how fast statistics are taken of a recording, beside plain reading of the same file.

Recordings of ten classes are made of random features (float32, a hidden layer of width p and logits): n samples and as
many records as make the size asked for. In turns, so that a busy machine slows all alike, and the quickest of each
kept: the layer is read record by record into new arrays, and chunk by chunk into one buffer, both by h5py; the file is
read as bytes into one buffer; and `compute_statistics` collapses the layer. The file is in the page cache for all four,
or, with `--cold`, is dropped from it before each, as is one larger than memory: then the disk has to be waited for.
`share` is the time of the first over that of statistics, `processor_share` the same of processor time. Large recordings
are collapsed once more from what was kept of them (`lesde_infer.kept_rows`; the cache is the benchmark's own).

With `--memory`, the peak resident memory of a process of its own that collapses a file of 20 GB (n = 50,000, p = 84),
most of whose chunks are reserved and were never written, so that it takes little disk; they read as zeros.

    python benchmarks/statistics_speed.py [--widths 3 84 2048] [--samples 300 5000 50000] [--impacts I R]
        [--stored plain gzip] [--megabytes 400] [--turns 5] [--cold] [--memory] [--short] [--json FILE]

Prints a table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_tools.recording import Recording
from data_tools.recording_layout import LayerLayout, RecordingLayout
from data_tools.recording_writer import RecordingWriter
from lesde_infer.kept_rows import WORTHWHILE
from lesde_infer.recording_identity import SETTLED
from lesde_infer.statistics import compute_statistics

K, EVERY, FEWEST, MOST = 10, 20, 4, 1000
LAYER = "hidden"
BIG_RECORDS, BIG_WRITTEN = 1_190, 6


def make(path: Path, n: int, p: int, n_records: int) -> None:
    """Write a recording of features that drift, spread and shake."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(n) % K)
    centres, weight = rng.normal(size=(K, p)), rng.normal(size=(K, p)) / np.sqrt(p)
    layers = {LAYER: LayerLayout(p), "out": LayerLayout(K)}
    layout = RecordingLayout(labels, labels, layers, logits="out", classifier_width=p, classifier_layer=LAYER)
    features = (centres[labels] + rng.normal(size=(n, p))).astype(np.float32)
    noise = (0.05 * rng.normal(size=(n + 7 * n_records, p))).astype(np.float32)
    with RecordingWriter(path, layout) as writer:
        for record in range(n_records):
            features += (0.02 * (centres + rng.normal(size=(K, p))))[labels].astype(np.float32)
            features += noise[7 * record : 7 * record + n]
            found = {LAYER: features, "out": features @ weight.T.astype(np.float32)}
            writer.append(EVERY * record, found, classifier=(weight, np.zeros(K)), commit=False)


def compress(source: Path, target: Path) -> None:
    """Write the same recording with its features compressed."""
    with h5py.File(source) as whole, h5py.File(target, "w") as smaller:
        for name, value in whole.attrs.items():
            smaller.attrs[name] = value
        for name in whole:
            if name != "features":
                whole.copy(name, smaller)
        for name, data in whole["features"].items():
            made = smaller.create_dataset(
                f"features/{name}", data.shape, data.dtype, chunks=data.chunks, maxshape=data.maxshape,
                compression="gzip", compression_opts=1, shuffle=True,
            )  # fmt: skip
            for record in range(len(data)):
                made[record] = data[record]


def by_record(path: Path) -> None:
    """Read the layer record by record."""
    with Recording(path) as recording:
        array = recording.features(LAYER)
        for record in range(recording.n_records):
            array[record]


def by_chunk(path: Path) -> None:
    """Read the layer chunk by chunk into one buffer."""
    with h5py.File(path) as file:
        data = file[f"features/{LAYER}"]
        buffer = np.empty(data.chunks, data.dtype)
        for chunk in data.iter_chunks():
            data.read_direct(buffer, chunk, tuple(slice(0, own.stop - own.start) for own in chunk))


def bytes_only(path: Path) -> None:
    """Read the file."""
    buffer = bytearray(2**20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def statistics(impact: Any, *, cache: bool = False) -> Callable[[Path], None]:
    """Return what takes the statistics of an impact."""

    def take(path: Path) -> None:
        with Recording(path) as recording:
            compute_statistics(recording, LAYER, impact, cache=cache)

    return take


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def quickest(
    path: Path, ways: dict[str, Callable[[Path], None]], turns: int, *, cold: bool
) -> dict[str, tuple[float, float]]:
    """Return the seconds of the quickest turn of each way, and the fewest processor seconds."""
    found = dict.fromkeys(ways, (np.inf, np.inf))
    for _ in range(turns):
        for name, way in ways.items():
            if cold:
                forget(path)
            start = time.perf_counter(), time.process_time()
            way(path)
            wall, busy = time.perf_counter() - start[0], time.process_time() - start[1]
            found[name] = min(found[name][0], wall), min(found[name][1], busy)
    return found


def measure(folder: Path, n: int, p: int, given: argparse.Namespace) -> Any:
    """Return the figures of one size of record."""
    n_records = int(np.clip(given.megabytes * 10**6 // (4 * n * p), FEWEST, MOST))
    path = folder / "plain.h5"
    make(path, n, p, n_records)
    found = []
    for way in given.stored:
        if way == "gzip":
            compress(path, folder / "gzip.h5")
        time.sleep(2 * SETTLED)  # a file that changed a moment ago is not trusted to stay the same
        plain = {"by_record": by_record, "by_chunk": by_chunk, "bytes": bytes_only}
        ways = plain | {own: statistics(own) for own in given.impacts}
        if 4 * n * p * n_records >= WORTHWHILE:
            ways |= {f"{own} kept": statistics(own, cache=True) for own in given.impacts}
        seconds = quickest(folder / f"{way}.h5", ways, given.turns, cold=given.cold)
        size = 4 * n * p * n_records / 1e6
        for own in given.impacts:
            of_plain = {f"{name}_seconds": seconds[name][0] for name in plain}
            kept = seconds.get(f"{own} kept")
            figures = {"n": n, "p": p, "records": n_records, "stored": way, "megabytes": size, "impact": own}
            figures |= of_plain | {"statistics_seconds": seconds[own][0], "kept_seconds": kept and kept[0]}
            figures |= {
                name: seconds["by_record"][place] / seconds[own][place]
                for place, name in enumerate(("share", "processor_share"))
            }
            found.append(figures)
            print(
                f"{way:6s} p {p:5d} n {n:6d} {n_records:5d} records  impact {own}  MB/s: read "
                f"{size / seconds['by_record'][0]:5.0f}, by chunk {size / seconds['by_chunk'][0]:5.0f}, bytes "
                f"{size / seconds['bytes'][0]:5.0f}, statistics {size / seconds[own][0]:5.0f}  share "
                f"{figures['share']:.2f} (processor {figures['processor_share']:.2f})"
                + (f"  kept: {kept[0]:.3f} s for {seconds[own][0]:.3f}" if kept else ""),
                flush=True,
            )
    for own_file in folder.iterdir():
        own_file.unlink()
    return found


def make_big(path: Path, n_records: int = BIG_RECORDS, n: int = 50_000, p: int = 84) -> None:
    """Make a file most of whose chunks are reserved and not written."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % K
    with RecordingWriter(path, RecordingLayout(labels, labels, {LAYER: LayerLayout(p)})) as writer:
        for record in range(2):
            writer.append(record, {LAYER: rng.normal(size=(n, p)).astype(np.float32)})
    with h5py.File(path, "r+") as file:
        chunks = file[f"features/{LAYER}"].chunks
        del file[f"features/{LAYER}"]
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk(chunks)
        created.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        created.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((n_records, n, p), (h5py.h5s.UNLIMITED, n, p))
        made = h5py.h5d.create(file["features"].id, LAYER.encode(), h5py.h5t.IEEE_F32LE, space, created)
        data = h5py.Dataset(made)
        for record in np.linspace(0, n_records - 1, BIG_WRITTEN).astype(int).tolist():
            data[record] = rng.normal(size=(n, p)).astype(np.float32)
        for name, kind in (("step", np.int64), ("time", np.float64)):
            file[name].resize(n_records, axis=0)
            file[name][:] = np.arange(n_records, dtype=kind)
        file["committed"][()] = n_records


def peak_memory(path: Path) -> dict[str, float]:
    """Return peak resident memory and time of a process that takes the statistics of a file."""
    command = [sys.executable, __file__, "--of", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def in_this_process(path: Path) -> dict[str, float]:
    """Take the statistics of a file, and say what it took."""
    before, start = own_peak(), time.perf_counter()
    statistics("I")(path)
    return {"imported_megabytes": before, "peak_megabytes": own_peak(), "seconds": time.perf_counter() - start}


def own_peak() -> float:
    """Return the peak resident memory of this program in MB; that of `getrusage` may be of what started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--widths", type=int, nargs="+", default=[3, 84, 2048])
    parser.add_argument("--samples", type=int, nargs="+", default=[300, 5_000, 50_000])
    parser.add_argument("--impacts", nargs="+", default=["I", "R"])
    parser.add_argument("--stored", nargs="+", default=["plain", "gzip"])
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="drop the file from the page cache before each way")
    parser.add_argument("--memory", action="store_true", help="look at memory as well")
    parser.add_argument("--short", action="store_true", help="small files of two widths only, uncompressed")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.of is not None:
        print(json.dumps(in_this_process(given.of)))
        return
    if given.short:
        given.widths, given.samples, given.stored, given.megabytes, given.turns = [3, 84], [5_000], ["plain"], 40, 3
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()
    result: dict[str, Any] = {"cores": cores, "load_average": load, "cold": given.cold, "runs": []}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for p in given.widths:
            for n in given.samples:
                result["runs"] += measure(Path(folder), n, p, given)
        if given.memory:
            path = Path(folder) / "big.h5"
            make_big(path)
            on_disk = path.stat()
            result["memory"] = {"gigabytes": on_disk.st_size / 1e9, "gigabytes_on_disk": on_disk.st_blocks * 512 / 1e9}
            result["memory"] |= peak_memory(path)
            print(result["memory"])
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
