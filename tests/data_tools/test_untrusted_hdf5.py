"""A hostile file must not make the reader touch other files, run filters, or allocate without bound."""

import os

import h5py
import numpy as np
import pytest

from data_tools import InputError, Recording, recover, write_recording


@pytest.fixture
def written(tmp_path):
    rng = np.random.default_rng(0)
    return write_recording(tmp_path / "run.h5", [0, 1], [0, 0, 1, 1], {"fc": rng.normal(size=(2, 4, 2))})


def external_storage(file, secret):
    file.create_dataset("scalars/x", shape=(2,), dtype="f8", external=[(str(secret), 0, 16)])


def virtual_dataset(file, secret):
    layout = h5py.VirtualLayout(shape=(2,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(secret), "x", shape=(2,))
    file.create_virtual_dataset("scalars/x", layout)


def soft_link(file, secret):
    file["scalars/x"] = h5py.SoftLink("/time")


def external_link(file, secret):
    file["scalars/x"] = h5py.ExternalLink(str(secret), "/x")


def external_group(file, secret):
    file["scalars"] = h5py.ExternalLink(str(secret), "/")


def text(file, secret):
    file["scalars/x"] = ["a", "b"]


def compound(file, secret):
    file["scalars/x"] = np.zeros(2, dtype=[("a", "f8"), ("b", "i4")])


def named_type(file, secret):
    file["scalars/x"] = np.dtype("f8")


def unallocated(file, secret):
    file.create_dataset("scalars/x", shape=(2**40,), dtype="f8", chunks=(1024,))


def highly_compressed(file, secret):
    dataset = file.create_dataset("scalars/x", shape=(2**32,), dtype="f8", chunks=(2**16,), compression="gzip")
    dataset[: 2**17] = 0.0


def huge_chunk(file, secret):
    file.create_dataset("scalars/x", shape=(2,), dtype="f8", maxshape=(None,), chunks=(2**28,))


def many_numbers(file, secret):
    """Each by itself is small enough to be taken for what has not been written yet."""
    for number in range(20):
        file.create_dataset(f"scalars/x{number:02}", shape=(2**20,), dtype="f8", chunks=(1024,))


def name_that_is_no_text(file, secret):
    h5py.h5g.create(file.id, b"\xff\xfe")


def number_filter(file, secret):
    values = np.zeros(64)
    file.create_dataset("scalars/x", data=values.astype("i4"), chunks=(8,), scaleoffset=4)


def unknown_filter(file, secret):
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((2,))
    creation.set_filter(305, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((2,))
    group = file.create_group("scalars")
    h5py.h5d.create(group.id, b"x", h5py.h5t.IEEE_F64LE, space, dcpl=creation)


def deep(file, secret):
    file.create_group("a/b/c/d/e/f/g")


def loop(file, secret):
    file["scalars"] = file["/"]


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (external_storage, "/scalars/x is kept in an external file"),
        (virtual_dataset, "/scalars/x is a virtual dataset"),
        (soft_link, "/scalars/x is a SoftLink"),
        (external_link, "/scalars/x is a ExternalLink"),
        (external_group, "/scalars is a ExternalLink"),
        (text, "/scalars/x has type object, expected plain numbers"),
        (compound, "/scalars/x has type .*, expected plain numbers"),
        (named_type, "/scalars/x is a Datatype"),
        (unallocated, "/scalars/x declares 8796093022208 bytes but stores 0"),
        (highly_compressed, "/scalars/x declares 34359738368 bytes"),
        (huge_chunk, "/scalars/x has chunks"),
        (many_numbers, "/scalars/x08 declares 8388608 bytes but stores 0"),
        (unknown_filter, "/scalars/x needs the filter 305"),
        (number_filter, "/scalars/x needs the filter 6"),
        (name_that_is_no_text, "holds the name .* which is no text"),
        (deep, "nested deeper"),
        (loop, "nested deeper"),
    ],
)
def test_hostile_contents_are_refused(written, tmp_path, attack, message):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones(2)
    with h5py.File(written, "r+") as file:
        attack(file, secret)
    with pytest.raises(InputError, match=message) as caught:
        Recording(written)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.zeros(3), np.zeros(1), ["a", "b"]])
def test_attributes_are_single_values(written, value):
    with h5py.File(written, "r+") as file:
        file.attrs["lr"] = value
    with pytest.raises(InputError, match="attribute 'lr' of / is not a single text or number"):
        Recording(written)


def test_numbers_that_no_memory_holds_are_refused_however_well_they_compress(written, monkeypatch):
    with h5py.File(written, "r+") as file:
        file.create_dataset("scalars/x", data=np.zeros(10_000), chunks=(5000,), compression="gzip")
    monkeypatch.setattr("data_tools.untrusted_hdf5._NUMBERS_ALWAYS_ACCEPTED", 1000)
    with pytest.raises(InputError, match="/scalars/x declares 80000 bytes but stores"):
        Recording(written)


def test_records_that_no_memory_holds_are_refused(written, monkeypatch):
    monkeypatch.setattr("data_tools.untrusted_hdf5._LARGEST_RECORD", 60)
    with pytest.raises(InputError, match="/features/fc has records of more than 60 bytes, too large to read"):
        Recording(written)


@pytest.mark.parametrize(
    "value", [np.void(b"opaque"), 1 + 2j, np.zeros((), dtype=[("a", "f8")]), "x" * 5000, h5py.Reference()]
)
def test_attributes_of_other_types_are_refused(written, value):
    with h5py.File(written, "r+") as file:
        if isinstance(value, h5py.Reference):
            file.attrs["odd"] = file.ref
        elif isinstance(value, str):
            file.attrs["odd"] = np.bytes_(value)
        else:
            file.attrs["odd"] = value
    with pytest.raises(InputError, match="attribute 'odd' of / is not a single text or number"):
        Recording(written)


def test_text_that_is_none_can_still_be_written_anywhere(written):
    with h5py.File(written, "r+") as file:
        file.attrs["note"] = np.bytes_(b"caf\xe9")
        file.attrs.create("other", b"\xff", dtype=h5py.string_dtype())
    with Recording(written) as recording:
        assert recording.provenance["note"] == "caf\N{REPLACEMENT CHARACTER}"
        assert recording.provenance["other"].encode() == b"\xef\xbf\xbd"


def test_a_heap_of_text_that_hdf5_would_read_for_ever_is_refused(written):
    content = bytearray(written.read_bytes())
    heap = content.index(b"GCOL")
    place = heap + 16
    while int.from_bytes(content[place : place + 2], "little"):  # to the free space at its end
        length = int.from_bytes(content[place + 8 : place + 16], "little")
        place += 16 + (length + 7) // 8 * 8
    for length in (0, 2**62):
        content[place + 8 : place + 16] = length.to_bytes(8, "little")
        written.write_bytes(content)
        with pytest.raises(InputError, match="the place where its text is kept cannot be read"):
            Recording(written)


@pytest.mark.parametrize("filters", [{"fletcher32": True}, {}])
def test_chunks_whose_size_cannot_be_are_refused(written, tmp_path, filters):
    """HDF5 would read beyond them, and take the process down."""
    path = tmp_path / "old.h5"
    with h5py.File(written) as source, h5py.File(path, "w", libver="earliest") as file:
        file.attrs.update(source.attrs)
        for name in ("step", "time", "labels", "given_labels"):
            file[name] = source[name][()]
        array = file.create_dataset("features/fc", data=source["features/fc"][()], chunks=(1, 4, 2), **filters)
        size = array.id.get_chunk_info(0).size
    Recording(path).close()
    content = path.read_bytes()
    key = size.to_bytes(4, "little") + bytes(4 + 8 * 4)  # size, filters left out, and where the first chunk lies
    assert content.count(key) == 1
    path.write_bytes(content.replace(key, bytes(4) + key[4:]))
    with pytest.raises(InputError, match="/features/fc has a chunk of 0 bytes, which cannot be"):
        Recording(path)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "run.h5"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for read in (Recording, lambda source: recover(source, tmp_path / "x.h5")):
        with pytest.raises(InputError, match=r"run\.h5: a device or pipe, not a file"):
            read(path)


def test_refused_files_are_closed(written):
    with h5py.File(written, "r+") as file:
        soft_link(file, None)
    with pytest.raises(InputError):
        Recording(written)
    with h5py.File(written, "r+") as file:  # would fail while a reader holds the file
        del file["scalars"]
    Recording(written).close()
