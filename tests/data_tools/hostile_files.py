"""Recordings made wrong on purpose: bytes changed at random, and contents that no recording should have."""

import random
import shutil
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

from data_tools import RecordingWriter, write_recording
from data_tools.elasticity_records import DriftMeasurement, ElasticitySettings, ElasticitySnapshot
from data_tools.recording_layout import LayerLayout, RecordingLayout

MARKER = 1234.5678
"""What the file next to the recording holds, which no reader may ever return."""

LABELS = np.array([0, 0, 1, 1])


def write_originals(folder: Path) -> dict[str, Path]:
    """Write small recordings of every kind: finished, with a dead writer, as older HDF5 lays files out, and reduced."""
    rng = np.random.default_rng(0)
    n_records = 3
    drift = DriftMeasurement(rng.normal(size=(1, 2, 2, 2)), tangent=rng.normal(size=(2, 2)), impact=np.eye(2))
    finished = write_recording(
        folder / "finished.h5",
        [0, 1, 10],
        LABELS,
        {"h": rng.normal(size=(n_records, 4, 3)), "fc": rng.normal(size=(n_records, 4, 2)).astype(np.float32)},
        logits="fc",
        given_labels=[0, 0, 1, 0],
        classifier=(rng.normal(size=(n_records, 2, 3)), rng.normal(size=(n_records, 2)), "h"),
        scalars={"loss": [3.0, 2.0, 1.0], "lr": [0.1, 0.1, 0.1]},
        elasticity=(
            ElasticitySettings(np.ones(1), 2, batch_size=4),
            [ElasticitySnapshot(5, 0.1, {"fc": {"labels": drift, "given_labels": drift}})],
        ),
        class_frequencies=[0.5, 0.5],
        provenance={"model": "net", "seed": 3, "momentum": 0.9},
    )
    layout = RecordingLayout(LABELS, LABELS, {"h": LayerLayout(3), "fc": LayerLayout(2)}, logits="fc", scalars=["loss"])
    unfinished = folder / "unfinished.h5"
    with RecordingWriter(folder / "live.h5", layout, provenance={"seed": 3}) as writer:
        for step in range(3):
            features = {"h": rng.normal(size=(4, 3)), "fc": rng.normal(size=(4, 2))}
            writer.append(step, features, scalars={"loss": 1.0})
        shutil.copyfile(folder / "live.h5", unfinished)  # what is on disk when the writer dies here
    old = folder / "old.h5"
    with h5py.File(finished) as source, h5py.File(old, "w", libver="earliest") as target:
        target.attrs.update(source.attrs)

        def copy(name, node):
            if isinstance(node, h5py.Group):
                target.create_group(name).attrs.update(node.attrs)
            elif node.ndim > 1:
                target.create_dataset(
                    name, data=node[()], chunks=(1, *node.shape[1:]), compression="gzip", shuffle=True, fletcher32=True
                )
            elif node.ndim and name.startswith("scalars"):
                target.create_dataset(name, data=node[()], chunks=(2,), compression="lzf")
            else:
                target[name] = node[()]

        source.visititems(copy)
    reduced = folder / "reduced.h5"
    shutil.copyfile(finished, reduced)
    with h5py.File(reduced, "r+", libver="latest") as file:  # as the writer does: checksums guard what is not data
        node = file.create_group("reduced/fc/R-labels")
        node.attrs.update(n_contrast=2, n_shared=2, n_axes=2)
        file["reduced/labels"] = file["reduced/given_labels"] = np.repeat(LABELS, 5)
        widths = {"class_means": (2, 2), "impact": (2, 2), "mean_impact": (2,), "mean_square": (), "moved_along": (20,)}
        for name, shape in {**widths, "products": (54,)}.items():
            values = rng.normal(size=(n_records, *shape))
            node.create_dataset(name, data=values, chunks=(1, *shape) if shape else None)
        filtered, by_drive = node.create_group("filtered"), ("impact", "mean_impact", "moved_along")
        filtered.attrs["momentum"] = 0.9
        for name, shape in {
            **{name: widths[name] for name in by_drive},
            "products": (54,),
            "memory": (2, 2, 2),
        }.items():
            filtered.create_dataset(name, data=rng.normal(size=(n_records, *shape)), chunks=(1, *shape))
        file["reduced/samples"] = np.arange(4)
    with h5py.File(folder / "secret.h5", "w") as file:
        file["x"] = np.full((3, 4, 2), MARKER)
    np.full(100, MARKER).tofile(folder / "secret.bin")
    return {"finished": finished, "unfinished": unfinished, "old": old, "reduced": reduced}


def payload(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Return for each dataset where in the file its numbers are: byte ranges that no checksum guards."""
    found: dict[str, list[tuple[int, int]]] = {}
    with h5py.File(path, "r", **({"swmr": True, "libver": "latest"} if "unfinished" in path.name else {})) as file:

        def note(name, node):
            if isinstance(node, h5py.Dataset):
                ranges = []
                if node.chunks is None:
                    ranges = [(node.id.get_offset(), node.id.get_storage_size())]
                else:
                    node.id.chunk_iter(lambda chunk: ranges.append((chunk.byte_offset, chunk.size)))
                found["/" + name] = [(start, start + size) for start, size in ranges if start is not None]

        file.visititems(note)
    return found


def changed_datasets(original: bytes, changed: bytes, where: dict[str, list[tuple[int, int]]]) -> set[str]:
    """Return the datasets whose numbers are not what they were."""
    return {
        name
        for name, ranges in where.items()
        if any(original[start:stop] != changed[start:stop] for start, stop in ranges)
    }


def change_bytes(content: bytes, rng: random.Random) -> bytes:
    """Change a file at random, at one place or at many."""
    changed = bytearray(content)
    kind = rng.choice(["flip", "flip", "set", "number", "cut", "swap", "clear", "extend"])
    if kind == "flip":
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    elif kind == "set":
        for _ in range(rng.choice([1, 2, 4])):
            changed[rng.randrange(len(changed))] = rng.choice([0, 255, rng.randrange(256)])
    elif kind == "number":
        size = rng.choice([2, 4, 8])
        number = rng.choice([0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (4 * size), len(content)])
        place = rng.randrange(len(changed) - size)
        changed[place : place + size] = (number % 2 ** (8 * size)).to_bytes(size, "little")
    elif kind == "cut":
        del changed[rng.randrange(len(changed)) :]
    elif kind == "extend":
        changed += rng.randbytes(rng.choice([1, 512, 4096]))
    else:
        size = rng.choice([4, 16, 64, 512])
        first, second = (rng.randrange(len(changed) - size) for _ in range(2))
        block = bytes(changed[first : first + size])
        other = bytes(size) if kind == "clear" else bytes(changed[second : second + size])
        changed[first : first + size] = other
        if kind == "swap":
            changed[second : second + size] = block
    return bytes(changed)


def change_contents(path: Path, rng: random.Random, folder: Path) -> None:
    """Make one or a few changes to the objects of a recording, as someone might who means harm."""
    with h5py.File(path, "r+", locking=False) as file:
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            with suppress(Exception):  # what h5py itself will not write is no change
                rng.choice(_CHANGES)(file, rng, folder)


def _names(file, kind=(h5py.Group, h5py.Dataset)):
    names: list[str] = []

    def note(name, node):
        if isinstance(node, kind):
            names.append(name)

    file.visititems(note)
    return names or ["nothing"]


def _replaced(file, rng):
    """Remove an object, and return its name; or a name where there is none yet."""
    fresh = rng.random() < 0.3
    name = rng.choice(["x", "scalars/x", "features/x", "elasticity/x"]) if fresh else rng.choice(_names(file))
    parent = file
    for part in name.split("/")[:-1]:
        child = parent.get(part)
        if not isinstance(child, h5py.Group):
            return f"new{rng.randrange(10**6)}"
        parent = child
    if name in file:
        del file[name]
    elif name.split("/")[-1] in parent:
        del parent[name.split("/")[-1]]
    return name


def _random_array(rng):
    shape = rng.choice([(), (0,), (1,), (3,), (4,), (3, 4), (3, 4, 2), (3, 4, 3), (3, 4, 0), (2, 4, 2), (3, 1, 1, 1)])
    dtype = rng.choice(["f2", "f4", "f8", ">f8", "i1", "i8", ">i8", "u8", "?", "c16", "S3", "V5", np.longdouble])
    values = np.zeros(shape, dtype)
    if values.dtype.kind in "fi":
        values[...] = rng.choice([0, 1, -1, 3, 100])
    return values


def _array(file, rng, folder):
    file[_replaced(file, rng)] = _random_array(rng)


def _extreme(file, rng, folder):
    file[_replaced(file, rng)] = rng.choice(
        [np.full((3,), np.nan), np.full((3, 4, 2), np.inf), np.int64(-1), np.int64(2**62), np.arange(3)[::-1].copy()]
    )


def _resize(file, rng, folder):
    growing = [name for name in _names(file, h5py.Dataset) if name in file and file[name].chunks is not None]
    if growing:
        dataset = file[rng.choice(growing)]
        length = rng.choice([0, 1, 2, 5, 1000, 2**20, 2**31, 2**40])
        if dataset.maxshape[0] is None:
            dataset.resize(length, axis=0)


def _delete(file, rng, folder):
    name = rng.choice(_names(file))
    if name in file:
        del file[name]


def _attribute(file, rng, folder):
    node = file[rng.choice(["/", *(name for name in _names(file) if name in file)])]
    name = rng.choice(
        ["format", "version", "logits_layer", "closed", "created", "classifier_layer", "n_repeats", "odd"]
    )
    value = rng.choice(
        [
            "text",
            "",
            "fc",
            b"\xff\xfebytes",
            7,
            -1,
            2**63,
            float("nan"),
            True,
            1 + 2j,
            ["a", "b"],
            "x" * 3000,
            np.zeros(3),
            np.zeros((0,)),
            np.zeros(1, dtype=[("a", "f8")])[0],
            h5py.Empty("f8"),
            h5py.Empty("S3"),
            np.void(b"opaque"),
            np.bytes_(b"\xff\xff"),
        ]
    )
    if rng.random() < 0.1:
        value = file.ref
    if name in node.attrs:
        del node.attrs[name]
    node.attrs[name] = value


def _external_link(file, rng, folder):
    file[_replaced(file, rng)] = h5py.ExternalLink(rng.choice(["secret.h5", str(folder / "secret.h5")]), "/x")


def _external_parent(file, rng, folder):
    name = rng.choice(["scalars", "features", "classifier", "elasticity"])
    if name in file:
        del file[name]
    file[name] = h5py.ExternalLink(str(folder / "secret.h5"), "/")


def _soft_link(file, rng, folder):
    target = rng.choice(["/", "/features", "/time", "/nowhere", "/features/h", "."])
    file[_replaced(file, rng)] = h5py.SoftLink(target)


def _hard_link(file, rng, folder):
    target = rng.choice(["/", *(name for name in _names(file) if name in file)])
    node = file[target]
    file[_replaced(file, rng)] = node


def _external_storage(file, rng, folder):
    secret = str(folder / "secret.bin")
    shape = rng.choice([(3,), (3, 4, 2), (4,)])
    size = int(np.prod(shape)) * 8
    file.create_dataset(_replaced(file, rng), shape=shape, dtype="f8", external=[(secret, 0, size)])


def _virtual(file, rng, folder):
    layout = h5py.VirtualLayout(shape=(3, 4, 2), dtype="f8")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", shape=(3, 4, 2))
    file.create_virtual_dataset(_replaced(file, rng), layout)


def _huge(file, rng, folder):
    shape = rng.choice(
        [(2**40,), (3, 2**20, 2**20), (3, 4, 2**40), (2**62,), (2**20, 4, 2), (3, 2**15, 2**14), (2**25,)]
    )
    chunks = rng.choice([None, tuple(min(length, 64) for length in shape)])
    compression = "gzip" if chunks and rng.random() < 0.5 else None
    dtype = rng.choice(["f8", "i8", "f2"])
    dataset = file.create_dataset(
        _replaced(file, rng), shape=shape, dtype=dtype, chunks=chunks, compression=compression
    )
    if chunks is not None:
        dataset[tuple(slice(0, 1) for _ in shape)] = 1


def _filter(file, rng, folder):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((2,))
    creation.set_filter(rng.choice([4, 5, 6, 305, 32001, 32015, 65535]), h5py.h5z.FLAG_OPTIONAL, (1, 2, 3, 4))
    space = h5py.h5s.create_simple((3,))
    name = _replaced(file, rng)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F64LE, space, dcpl=creation, lcpl=links)


def _objects(file, rng, folder):
    name = _replaced(file, rng)
    kind = rng.choice(["text", "references", "ragged", "enumeration", "compound", "empty", "type"])
    if kind == "text":
        file[name] = ["a", "b", "c"]
    elif kind == "references":
        file.create_dataset(name, data=[file.ref] * 3, dtype=h5py.ref_dtype)
    elif kind == "ragged":
        file.create_dataset(name, (3,), dtype=h5py.vlen_dtype(np.float64))
    elif kind == "enumeration":
        file.create_dataset(name, (3,), dtype=h5py.enum_dtype({"A": 0, "B": 1}))
    elif kind == "compound":
        file[name] = np.zeros(3, dtype=[("a", "f8"), ("b", "i4")])
    elif kind == "empty":
        file[name] = h5py.Empty("f8")
    else:
        file[name] = np.dtype("f8")


def _name(file, rng, folder):
    groups = ["/", *(name for name in _names(file, h5py.Group) if name in file)]
    group = file[rng.choice(groups)]
    name = rng.choice([b"\xff\xfe", b"..", b"%2F", b"%", b"a\x1b[2J", "é".encode(), b"x" * 5000])
    if name not in group:
        space = h5py.h5s.create_simple((3,))
        h5py.h5d.create(group.id, name, h5py.h5t.IEEE_F64LE, space)


def _many(file, rng, folder):
    group = file.require_group(f"many{rng.randrange(1000)}")
    other = group.require_group("inner")
    for number in range(rng.choice([15, 15, 15, 15, 120])):  # seen through every one of as many links
        other[str(number)] = file.get("labels", file)
        group[str(number)] = other


_CHANGES = [
    _array,
    _extreme,
    _resize,
    _delete,
    _attribute,
    _external_link,
    _external_parent,
    _soft_link,
    _hard_link,
    _external_storage,
    _virtual,
    _huge,
    _filter,
    _objects,
    _name,
    _many,
]
