"""Files and folders of other programs that cannot be read: each is named, with the place and what to do."""

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_cases import KINDS, described, ids_of, put
from hypothesis import given
from hypothesis import strategies as st

from foreign_helpers import llama, llmc, nanogpt, npy, npy_header, write_shards
from smalllm.data.foreign import find_shards
from smalllm.data.foreign_formats import recognise
from smalllm.errors import DataError

# --- what cannot be read


class Evil:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def with_objects(marker: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Evil(marker)], dtype=object), allow_pickle=True)
    return stream.getvalue()


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    folder = write_shards(tmp_path / "x", "nanogpt", train=[1, 2], val=[3])
    put(folder, {"meta.pkl": pickle.dumps(Evil(marker)), "notes.npz": b"PK"})
    described(folder)
    put(tmp_path / "y", {"train.npy": with_objects(marker)})
    with pytest.raises(
        DataError, match=r"train\.npy: the header says Python objects, in a pickle, which smalllm never"
    ):
        find_shards(tmp_path / "y")
    assert not marker.exists()
    pickle.loads((folder / "meta.pkl").read_bytes())  # the partner: whoever opens it is caught
    assert marker.exists()


NAMED = "{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (1,)}"
BAD: dict[str, tuple[bytes, list[str]]] = {
    "train.bin": (b"", ["train.bin: the file is empty"]),
    "odd.bin": (nanogpt([1, 2])[:3], ["odd.bin: has 3 bytes, an odd number"]),
    "magic.bin": (llmc([1, 2], magic=20240521), ["magic.bin: byte 0: magic 20240521, version 1", "magic 20240520,"]),
    "version.bin": (llmc([1, 2], version=2), ["version.bin: byte 4: version 2 of magic 20240520", "reads 1"]),
    "llama.bin": (llmc([1], magic=20240801, version=1), ["llama.bin: byte 4: version 1 of magic 20240801", "reads 7"]),
    "eval.bin": (llmc([1, 2], magic=20240522), ["eval.bin: byte 0: magic 20240522: evaluation questions of llm.c"]),
    "model.bin": (llmc([1, 2], magic=20240326), ["model.bin: byte 0: magic 20240326: a model of llm.c"]),
    "short.bin": (llmc([1, 2], n=3), ["short.bin: has 1,028 bytes; its header says 3 ids, which end at byte 1,030"]),
    "long.bin": (llmc([1, 2]) + b"x", ["long.bin: has 1,029 bytes; its header says 2 ids, which end at byte 1,028"]),
    "none.bin": (llmc([], n=0), ["none.bin: the header says 0 ids; expected at least 1"]),
    "less.bin": (llmc([], n=-2), ["less.bin: the header says -2 ids"]),
    "cut.bin": (llmc([1])[:600], ["cut.bin: ends within its header, at byte 600 of 1024"]),
    "wide.bin": (struct.pack("<100I", *range(100)), ["wide.bin: byte 2: every second 2-byte id is 0", "4-byte ids"]),
    "no.npy": (nanogpt([1, 2]), ["no.npy: byte 0: starts with b'\\x01\\x00\\x02\\x00'", "NUMPY"]),
    "v3.npy": (npy([1], version=1).replace(b"\1\0", b"\3\0", 1), ["v3.npy: byte 6", "(version 3.0; this smalllm"]),
    "half.npy": (npy([1])[:20], ["half.npy: byte 6: the header cannot be read"]),
    "text.npy": (npy_header("{'descr': '<u2', 'shape': open('x')}"), ["text.npy: byte 6: the header cannot be read"]),
    "float.npy": (npy([1] * 4, shape="(1,)").replace(b"<u2", b"<f8"), ["float.npy: the header says the type is <f8"]),
    "int64.npy": (npy([1], "int64"), ["int64.npy: the header says the type is <i8; expected uint16, uint32 or int32"]),
    "uint8.npy": (npy([1], "uint8"), ["uint8.npy: the header says the type is <u1"]),
    "named.npy": (npy_header(NAMED), ["named.npy: the header says the type is [('a'"]),
    "square.npy": (npy([1] * 4, shape="(2, 2)"), ["square.npy: the header says the shape is (2, 2); expected one"]),
    "scalar.npy": (npy([1], shape="()"), ["scalar.npy: the header says the shape is ()"]),
    "zero.npy": (npy([]), ["zero.npy: the header says 0 ids"]),
    "less.npy": (npy([1, 2, 3])[:-2], ["less.npy: has 132 bytes; its header says 3 ids, which end at byte 134"]),
    "more.npy": (npy([1, 2, 3]) + b"\0", ["more.npy: has 135 bytes"]),
    "negative.npy": (npy([1], shape="(-1,)"), ["negative.npy", "-1"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    content, says = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        find_shards(tmp_path)
    assert all(part in str(caught.value) for part in [str(tmp_path), *says]), caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0, 40, 79])
def test_an_id_beyond_the_vocabulary_is_named(tmp_path: Path, kind: str, place: int) -> None:
    writer, suffix, _ = KINDS[kind]
    ids = [i % 250 for i in range(80)]
    (tmp_path / f"train{suffix}").write_bytes(writer(ids))
    assert ids_of(tmp_path, described(tmp_path, val_fraction=0.1), "train") == ids[:72]
    ids[place] = 257
    (tmp_path / f"train{suffix}").write_bytes(writer(ids))
    with pytest.raises(DataError, match=rf"train{suffix}: token {place} is 257; expected .* vocab_size, 257"):
        described(tmp_path, val_fraction=0.1)


def test_a_negative_id_is_named(tmp_path: Path) -> None:
    put(tmp_path, {"train.npy": npy([1, -1, 2], "int32")})
    with pytest.raises(DataError, match=r"train\.npy: token 1 is -1; expected"):
        described(tmp_path, val_fraction=0.5)


def test_4_byte_ids_are_not_suspected_in_ordinary_files(tmp_path: Path) -> None:
    for seed, vocab_size in enumerate([2, 3, 65, 50_257]):
        ids = np.random.default_rng(seed).integers(0, vocab_size, 400).tolist()
        put(tmp_path, {"train.bin": nanogpt(ids)})
        assert find_shards(tmp_path).train[0].tokens == 400


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"train.bin": nanogpt([1]), "val.bin": llmc([1])}, ["train.bin is nanogpt", "val.bin is llmc"]),
        ({"train.bin": llmc([1]), "val.bin": llama([1])}, ["is llmc (uint16)", "is llmc (uint32)"]),
        ({"train.bin": nanogpt([1]), "val.npy": npy([1])}, ["nanogpt", "val.npy is npy", "one format"]),
        ({"train.bin": nanogpt([1]), "other.bin": nanogpt([1])}, ["other.bin: its name does not say"]),
        ({"val.bin": nanogpt([1])}, ["every file is held out (val.bin, …); expected files to train on"]),
        ({"test.bin": nanogpt([1])}, ["every file is called a test (test.bin"]),
        ({"a.parquet": b"PAR1", "b.txt": b""}, ["no shards to read: found a.parquet, b.txt; expected"]),
        ({".hidden.bin": nanogpt([1])}, ["no shards to read"]),
    ],
)  # fmt: skip
def test_a_folder_that_cannot_be_used(tmp_path: Path, files: dict[str, bytes], says: list[str]) -> None:
    put(tmp_path, files)
    with pytest.raises(DataError) as caught:
        described(tmp_path, val_fraction=0.1)
    assert all(part in str(caught.value) for part in [str(tmp_path), *says]), caught.value


def test_npy_files_may_differ_in_type(tmp_path: Path) -> None:
    """The partner of mixed formats: each of these says what it is."""
    put(tmp_path, {"train_0.npy": npy([1, 2]), "train_1.npy": npy([3], "int32"), "val.npy": npy([4], "uint32")})
    assert ids_of(tmp_path, described(tmp_path), "train") == [1, 2, 3]


def test_val_files_that_match_nothing(tmp_path: Path) -> None:
    write_shards(tmp_path, "nanogpt", train=[1])
    with pytest.raises(DataError, match=r"data\.val_files: .*none\*\.bin matches no file"):
        find_shards(tmp_path, val_files=[str(tmp_path / "none*.bin")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data\.val_files: .*empty: no shards to read: found nothing"):
        find_shards(tmp_path, val_files=[str(tmp_path / "empty")])
    with pytest.raises(DataError, match="no shards to read: found nothing"):
        find_shards(tmp_path / "absent")


def test_a_tokenizer_too_large_for_2_bytes_did_not_make_nanogpt_s_files(tmp_path: Path) -> None:
    write_shards(tmp_path, "nanogpt", train=[1, 2], val=[3])
    with pytest.raises(DataError, match=r"train\.bin: .*2-byte ids, but the bytes tokenizer has 128,256 ids"):
        described(tmp_path, vocab_size=128_256)
    assert described(tmp_path, vocab_size=65_536).splits["train"].tokens == 2


@given(
    content=st.sampled_from([nanogpt(range(300)), llmc([1, 2, 3]), npy([1, 2, 3]), npy([4] * 90, "int32")]),
    changes=st.dictionaries(st.integers(0, 140), st.integers(0, 255), max_size=5),
    length=st.one_of(st.none(), st.integers(0, 1100)),
    header=st.one_of(st.none(), st.text("{}()[]'\": ,\\\n\tL09<u2descrshape", max_size=40)),
    suffix=st.sampled_from([".bin", ".npy"]),
)
def test_damage_of_any_kind_is_a_data_error(
    tmp_path_factory: pytest.TempPathFactory,
    content: bytes,
    changes: dict[int, int],
    length: int | None,
    header: str | None,
    suffix: str,
) -> None:
    damaged = bytearray(content if header is None else npy_header(header))
    for place, value in changes.items():
        if place < len(damaged):
            damaged[place] = value
    path = tmp_path_factory.mktemp("damaged") / f"train{suffix}"
    path.write_bytes(damaged[:length])
    try:
        found = recognise(path, name="train")
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert found.layout.header_bytes + found.n_bytes == path.stat().st_size
