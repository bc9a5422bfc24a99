"""Tables of logits become recordings, in any order of rows and columns, and bad ones are refused by line."""

import gzip

import numpy as np
import pytest

from data_tools import InputError, Recording
from data_tools.convert import convert_recording, guess_format
from data_tools.convert_csv import recording_from_csv
from data_tools.convert_paper import recording_from_paper

STEPS, SAMPLES, LABELS, GIVEN = [0, 5, 20], [7, 3, 12, 4], [0, 1, 0, 1], [0, 1, 1, 1]
LOGITS = np.random.default_rng(0).normal(size=(3, 4, 2))


def rows(**changes):
    """Return the rows of a table as dictionaries of text."""
    return [
        {
            "step": str(step),
            "sample": str(sample),
            "label": str(LABELS[n]),
            "given_label": str(GIVEN[n]),
            **{f"logit_{k}": repr(float(LOGITS[t, n, k])) for k in range(2)},
            "loss": str(3.0 - t),
            **changes,
        }
        for t, step in enumerate(STEPS)
        for n, sample in enumerate(SAMPLES)
    ]


def table(path, entries, columns=None):
    columns = list(entries[0]) if columns is None else columns
    lines = [",".join(columns), *(",".join(row[name] for name in columns) for row in entries)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def source(tmp_path):
    return tmp_path / "log.csv"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run.h5"


def check(path):
    order = np.argsort(SAMPLES)
    with Recording(path) as recording:
        np.testing.assert_array_equal(recording.steps, STEPS)
        np.testing.assert_array_equal(recording.labels, np.array(LABELS)[order])
        np.testing.assert_array_equal(recording.given_labels, np.array(GIVEN)[order])
        np.testing.assert_array_equal(recording.features("fc3")[:], LOGITS[:, order])
        np.testing.assert_array_equal(recording.scalars["loss"], [3.0, 2.0, 1.0])
        assert recording.logits == "fc3"
        assert recording.provenance["converted_from"].startswith("log.csv")


def test_rows_and_columns_come_in_any_order(source, out):
    entries = rows()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        shuffled = [entries[place] for place in rng.permutation(len(entries))]
        check(convert_recording(table(source, shuffled, rng.permutation(list(entries[0])).tolist()), out, force=True))


def test_compressed_tables_with_a_byte_order_mark(source, out):
    table(source, rows())
    packed = source.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + source.read_bytes().replace(b"\n", b"\r\n")))
    assert guess_format(packed) == "csv"
    check(convert_recording(packed, out))


def test_samples_without_a_row_are_missing_and_empty_scalars_not_a_number(source, out):
    entries = rows()
    del entries[5]
    for entry in entries[4:7]:
        entry["loss"] = ""
    with Recording(recording_from_csv(table(source, entries), out)) as recording:
        missing = recording.check_finite("fc3")
        np.testing.assert_array_equal(missing, [0, 1, 0])
        np.testing.assert_array_equal(recording.scalars["loss"], [3.0, np.nan, 1.0])


def edited(row, **changes):
    entries = rows()
    entries[row].update(changes)
    return entries


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (edited(4, step="0"), "lines 2 and 6 both hold sample 7 at step 0; keep one"),
        (
            edited(4, label="1"),
            "sample 7 has the label 0 in line 2, and 1 elsewhere|sample 7 has the label 1 in line 6",
        ),
        (edited(4, given_label="1"), "sample 7 has the given_label"),
        (edited(3, label="0.5"), "column 'label' holds 0.5 in line 5, expected a whole number"),
        (edited(3, step="nan"), "column 'step' holds nan in line 5, expected a whole number"),
        (edited(3, sample="1e300"), "column 'sample' holds 1e\\+300 in line 5"),
        (edited(6, loss="2.5"), "column 'loss' holds .* at step 5; a scalar is the same in all rows of a step"),
        (edited(6, logit_1="high"), "a row below the header cannot be read .*high"),
        (edited(6, logit_1=""), "a row below the header cannot be read"),
        (edited(0, label="2"), "sample 7"),
        (edited(0, step="-1"), "starts at -1"),
    ],
)
def test_tables_that_cannot_be_right(source, out, entries, message):
    with pytest.raises(InputError, match=message) as caught:
        convert_recording(table(source, entries), out)
    assert str(caught.value).startswith(str(source))
    assert "\n" not in str(caught.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; its first line has to name the columns"),
        ("step,sample,label,logit_0,logit_1\n", "holds no rows"),
        ("step,sample,logit_0,logit_1\n0,0,1,2\n", "there is no column 'label'; its columns are step, sample"),
        ("step,sample,label,label,logit_0,logit_1\n0,0,1,2,1,1\n", "there are several columns 'label'"),
        ("step,sample,label,logit_0\n0,0,1,2\n", "columns of logits are logit_0, expected logit_0, logit_1"),
        ("step,sample,label,logit_0,logit_2\n0,0,1,2,1\n", "columns of logits are logit_0, logit_2, expected"),
        ("step,sample,label,logit_0,logit_1\n0,0,1,2\n", "cannot be read"),
        ("epoch,loss\n0,1\n", "has the columns epoch, loss; a table of logits has step, sample"),
        ("step,sample,label,logit_0,logit_1\n0,0,0,1,2\n0,1,1,2,1\n", "class 0 has only one sample"),
    ],
)
def test_texts_that_are_no_such_tables(source, out, text, message):
    source.write_text(text)
    with pytest.raises(InputError, match=message):
        convert_recording(source, out)
    assert not out.exists()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01binary", b"step,sample\xff\n"])
def test_bytes_that_are_no_text(source, out, content):
    source.write_bytes(content)
    with pytest.raises(InputError, match="not a readable table"):
        convert_recording(source, out)


def test_damaged_compression(source, out):
    packed = source.with_suffix(".csv.gz")
    whole = gzip.compress(table(source, rows()).read_bytes())
    for content in (b"not compressed", whole[: len(whole) // 2], whole[:30] + b"\0\0\0\0" + whole[34:]):
        packed.write_bytes(content)
        with pytest.raises(InputError, match=r"log\.csv\.gz: "):
            recording_from_csv(packed, out)


def paper_rows(n_iterations=60, n_trials=2, n_classes=3, seed=0):
    """Return a table as the paper's code writes it: at each iteration the sample trained on."""
    rng = np.random.default_rng(seed)
    lines = ["trial,itr,smp,y,y_logit0,y_logit1,y_logit2,tr_loss,val_loss,val_acc"]
    for trial in range(n_trials):
        for iteration in range(n_iterations):
            y = (iteration + trial) % n_classes
            logits = np.eye(n_classes)[y] * iteration + rng.normal(size=n_classes) * 0.01
            val = "" if iteration % 10 else "0.5,0.25"
            fields = [trial, iteration, rng.integers(1000), y, *logits.tolist(), iteration / 10]
            lines.append(",".join(map(str, fields)) + "," + (val or ","))
    return lines


def test_the_papers_tables_become_windows(source, out):
    lines = paper_rows()
    shuffled = [lines[0], *np.random.default_rng(1).permutation(lines[1:]).tolist()]
    source.write_text("\n".join(shuffled) + "\n")
    assert guess_format(source) == "paper"
    with Recording(convert_recording(source, out, window=15)) as recording:
        np.testing.assert_array_equal(recording.steps, [7, 22, 37, 52])
        assert (recording.n_classes, recording.n_samples) == (3, 30)  # 15 iterations of 2 trials, 3 classes
        np.testing.assert_array_equal(recording.labels, np.repeat([0, 1, 2], 10))
        features = recording.features("fc3")
        for record in range(4):
            mean = features[record][recording.labels == 1].mean(axis=0)
            # The class grows with the iteration, and a record stands in the middle of its window.
            np.testing.assert_allclose(mean, [0, recording.steps[record], 0], atol=0.6)
        np.testing.assert_allclose(recording.scalars["loss"], np.array([7, 22, 37, 52]) / 10)
        np.testing.assert_array_equal(recording.scalars["validation_accuracy"], np.full(4, 0.25))
        assert recording.provenance["cross_section"] == "samples are others at every record"
        assert (recording.provenance["n_trials"], recording.provenance["window"]) == (2, 15)


def test_windows_hold_as_many_of_each_class_as_the_scarcest(source, out):
    lines = paper_rows(n_trials=1)
    del lines[2:12:3]  # of one class, in the first window only
    source.write_text("\n".join(lines) + "\n")
    with Recording(recording_from_paper(source, out, window=20)) as recording:
        assert (recording.n_records, recording.n_samples) == (3, 9)
        assert not np.isnan(recording.features("fc3")[:]).any()


@pytest.mark.parametrize(
    ("change", "window", "message"),
    [
        (lambda lines: lines, 2, "class 0 comes up 1 times in the window from iteration 0, and it takes two; widen"),
        (lambda lines: lines, 100, "its 60 iterations do not fill a window of 100; lower it"),
        (lambda lines: lines, 0, "window is 0"),
        (lambda lines: [*lines, "0,5,1,3,1,1,1,1,1,1"], 15, "column 'y' holds 3 in line 122, outside 0 … 2"),
        (lambda lines: [*lines, "0,-5,1,0,1,1,1,1,1,1"], 15, "column 'itr' holds -5"),
        (lambda lines: [*lines, "0,5.5,1,0,1,1,1,1,1,1"], 15, "column 'itr' holds 5.5 in line 122"),
        (lambda lines: [lines[0].replace(",y,", ",label,"), *lines[1:]], 15, "there is no column 'y'"),
    ],
)
def test_papers_tables_that_cannot_be_used(source, out, change, window, message):
    source.write_text("\n".join(change(paper_rows())) + "\n")
    with pytest.raises(InputError, match=message):
        convert_recording(source, out, source_format="paper", window=window)
    assert not out.exists()
