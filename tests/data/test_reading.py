"""Readers of large and damaged files: what comes before the damage is given, memory is bounded, progress is told."""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalllm.data.document import Document, Reading
from smalllm.data.record_files import read_parquet
from smalllm.data.sources import read_files, read_whole_text
from smalllm.errors import DataError

TEXTS = [f"document {i} " + "abc é " * (i % 50) for i in range(3000)]


def write_parquet(path: Path, texts: list[Any], **options: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, **options)
    return path


def given_before(documents: Iterator[Document], message: str) -> list[str]:
    """The texts that come before an error with this message."""
    found = []
    with pytest.raises(DataError, match=message):
        for document in documents:
            found.append(document.text)
    return found


# --- damage in the middle


def test_a_gzip_file_damaged_in_the_middle_names_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    packed = gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode(), mtime=0)
    path.write_bytes(packed[: len(packed) // 2])
    found = given_before(read_files([path], separator=None), r"a\.jsonl\.gz is not a whole gzip file \(after byte \d+")
    assert found == TEXTS[: len(found)] and len(found) > 500
    path.write_bytes(packed[:-8] + b"\0\0\0\0" + packed[-4:])  # the checksum
    assert given_before(read_files([path], separator=None), "after byte .*CRC") == TEXTS
    path.write_bytes(packed)
    assert [d.text for d in read_files([path], separator=None)] == TEXTS  # the partner: whole, it is read


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"compression": "none", "write_page_checksum": True}])
def test_a_parquet_file_damaged_in_the_middle_names_the_row(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_parquet(tmp_path / "a.parquet", TEXTS, row_group_size=500, **options)
    whole = bytearray(path.read_bytes())
    offset = pyarrow.parquet.ParquetFile(path).metadata.row_group(3).column(0).dictionary_page_offset
    whole[offset + 40 : offset + 60] = b"\xff" * 20
    path.write_bytes(whole)
    found = given_before(read_files([path], separator=None), r"a\.parquet is not a whole Parquet file \(after row 1500")
    assert found == TEXTS[:1500]


def test_a_parquet_value_that_is_not_utf8_names_the_row(tmp_path: Path) -> None:
    values = [text.encode() for text in TEXTS]
    values[1234] = b"fine \xff not"
    column = pyarrow.array(values, pyarrow.binary())
    strings = pyarrow.StringArray.from_buffers(len(values), column.buffers()[1], column.buffers()[2])
    path = write_parquet(tmp_path / "a.parquet", [], row_group_size=500)
    pyarrow.parquet.write_table(pyarrow.table({"text": strings}), path)
    found = given_before(
        read_files([path], separator=None), r"a\.parquet, row 1235: 'text' is not UTF-8 \(byte 5 of it"
    )
    assert found == TEXTS[:1234]


def test_a_missing_parquet_value_names_the_row(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [*TEXTS[:700], None, *TEXTS], row_group_size=500)
    assert given_before(read_files([path], separator=None), "row 701: 'text' is null") == TEXTS[:700]


# --- memory


def peak_bytes(read: Callable[[], Iterable[object]]) -> int:
    """The most memory that Arrow held at once."""
    before, peak = pyarrow.total_allocated_bytes(), 0
    for _ in read():
        peak = max(peak, pyarrow.total_allocated_bytes() - before)
    return peak


def test_one_large_row_group_is_read_page_by_page(tmp_path: Path) -> None:
    texts = [f"{i} " + "some text that is long " * 90 for i in range(20_000)]  # 42 MB
    path = write_parquet(tmp_path / "a.parquet", texts, row_group_size=10**9, compression="none")

    assert peak_bytes(lambda: read_parquet(path, text_column="text")) < 8 << 20
    # The partner: as the library reads it by default, all of the row group is in memory.
    assert peak_bytes(lambda: pyarrow.parquet.ParquetFile(path).iter_batches(64)) > 35 << 20


def test_rows_at_once_follow_their_size(tmp_path: Path) -> None:
    """Sixty texts of a megabyte, in as many pages, are not read together."""
    options = {"row_group_size": 60, "use_dictionary": False, "write_batch_size": 1}
    path = write_parquet(tmp_path / "a.parquet", ["x" * 10**6] * 60, **options)
    assert peak_bytes(lambda: read_parquet(path, text_column="text")) < 12 << 20


# --- how far


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_readers_tell_how_far_they_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".parquet"):
        write_parquet(path, TEXTS, row_group_size=700)
    else:
        jsonl = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
        content = (jsonl if "jsonl" in name else "\n--\n".join(TEXTS)).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (tmp_path / "b.txt").write_text("second")
    files = [path, tmp_path / "b.txt"]
    reading = Reading(total_bytes=sum(file.stat().st_size for file in files))
    shares = []
    for _ in read_files(files, separator="--", reading=reading):
        shares.append(reading.share)
    assert len(shares) == len(TEXTS) + 1 and None not in shares
    assert all(0 <= share <= 1 for share in shares if share is not None)
    # The texts are not equally long, and a packed file is read in blocks: a guess, but no wild one.
    done = sum(len(text) for text in TEXTS[: len(TEXTS) // 2]) / sum(map(len, TEXTS))
    slack = 0.6 if name.endswith(".gz") else 0.05
    assert abs((shares[len(TEXTS) // 2] or 0) - done) < slack
    assert reading.share == 1 and reading.before_bytes == reading.total_bytes


@given(val_fraction=st.sampled_from([0.0, 0.3]))
def test_one_text_tells_how_far_it_is(tmp_path_factory: pytest.TempPathFactory, val_fraction: float) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text("line é\n" * 100_000)
    reading = Reading(total_bytes=path.stat().st_size)
    assert list(read_whole_text(path, val_fraction=val_fraction, reading=reading))
    assert reading.share == 1
    assert Reading().share is None
