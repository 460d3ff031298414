"""Shards of other programs: exactly the ids that were written come back, and what cannot be read is named."""

import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from data_helpers import contents, make
from foreign_cases import EOS, KINDS, described, ids_of, put
from hypothesis import given
from hypothesis import strategies as st

from foreign_helpers import llmc, nanogpt, npy, write_shards
from smalllm.data.batches import n_windows, read_windows, window_ids
from smalllm.data.foreign import SAMPLE_TOKENS, WHOLE_BYTES, find_shards, is_foreign
from smalllm.data.manifest import Manifest
from smalllm.data.shards import open_split
from smalllm.errors import DataError

# --- what is read is what was written


@given(kind=st.sampled_from(sorted(KINDS)), data=st.data())
def test_every_format_gives_the_ids_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    writer, suffix, vocab_size = KINDS[kind]
    token_ids = st.integers(0, vocab_size - 2)
    train = data.draw(st.lists(st.lists(token_ids, min_size=1, max_size=60), min_size=1, max_size=4))
    val = data.draw(
        st.lists(st.lists(token_ids, max_size=20).map(lambda ids: [vocab_size - 1, *ids]), min_size=1, max_size=2)
    )
    folder = tmp_path_factory.mktemp("shards")
    for split, files in {"train": train, "val": val}.items():
        for i, ids in enumerate(files):
            (folder / f"x_{split}_{i:06d}{suffix}").write_bytes(writer(ids))
    manifest = described(folder, vocab_size=vocab_size)
    written = {split: [i for ids in files for i in ids] for split, files in {"train": train, "val": val}.items()}
    assert {split: ids_of(folder, manifest, split) for split in written} == written
    stream = open_split(folder, manifest, "train")
    start, stop = sorted(data.draw(st.integers(0, stream.n_tokens)) for _ in range(2))
    assert stream.read(start, stop).tolist() == written["train"][start:stop]
    for position in range(stream.n_tokens):
        name, offset = stream.where(position)
        assert train[int(name[8:14])][offset] == written["train"][position]


def test_windows_cross_files(tmp_path: Path) -> None:
    put(tmp_path, {"train_0.bin": nanogpt(range(10)), "train_1.bin": nanogpt(range(10, 25)), "val.bin": nanogpt([9])})
    stream = open_split(tmp_path, described(tmp_path), "train")
    count = n_windows(stream.n_tokens, 4)
    ids = window_ids(3, 0, count, n_windows=count)
    assert read_windows(stream, ids, 4).tolist() == [list(range(4 * i, 4 * i + 5)) for i in ids.tolist()]


def test_what_we_read_is_what_their_own_lines_read(tmp_path: Path) -> None:
    """And the writers here write what those lines read."""
    ids = np.random.default_rng(0).integers(0, 50_257, 300_000).tolist()
    put(tmp_path, {"n/train.bin": nanogpt(ids), "f/a_train_1.npy": npy(ids), "c/a_train_1.bin": llmc(ids)})
    assert np.memmap(tmp_path / "n/train.bin", dtype=np.uint16, mode="r").tolist() == ids
    assert np.load(tmp_path / "f/a_train_1.npy").tolist() == ids
    with (tmp_path / "c/a_train_1.bin").open("rb") as stream:
        header = np.frombuffer(stream.read(256 * 4), dtype=np.int32)
        assert header[:3].tolist() == [20240520, 1, len(ids)]
        assert np.frombuffer(stream.read(), dtype=np.uint16).tolist() == ids
    for name in "nfc":
        manifest = described(tmp_path / name, vocab_size=50_257, val_fraction=0.1)
        assert ids_of(tmp_path / name, manifest, "train") + ids_of(tmp_path / name, manifest, "val") == ids


def test_our_own_shards_under_other_names_are_nanogpt_s(tmp_path: Path) -> None:
    make(tmp_path, train=list(range(10)), val=[7, 8, 9])
    assert not is_foreign(tmp_path)  # a directory of ours is never taken for another program's
    (tmp_path / "manifest.json").unlink()
    assert is_foreign(tmp_path)
    manifest = described(tmp_path, vocab_size=300)
    assert manifest.source == {"kind": "foreign", "format": "nanogpt"}
    assert [ids_of(tmp_path, manifest, split) for split in ("train", "val")] == [list(range(10)), [7, 8, 9]]


@pytest.mark.parametrize("ours", ["manifest.json", ".prepare.json", ".prepare.lock", "tokenizer/smalllm.json"])
def test_an_unfinished_preparation_is_not_foreign(tmp_path: Path, ours: str) -> None:
    write_shards(tmp_path, "nanogpt", train=[1, 2], val=[3])
    assert is_foreign(tmp_path)
    (tmp_path / ours).parent.mkdir(exist_ok=True)
    (tmp_path / ours).write_text("")
    assert not is_foreign(tmp_path)


# --- which file is for what


@pytest.mark.parametrize(
    ("names", "train", "val", "aside"),
    [
        (["train.bin", "val.bin"], ["train.bin"], ["val.bin"], []),
        (["a_train_1.npy", "a_train_2.npy", "a_val_0.npy"], ["a_train_1.npy", "a_train_2.npy"], ["a_val_0.npy"], []),
        (["x/1.npy", "val/0.npy"], ["x/1.npy"], ["val/0.npy"], []),
        (["edu/train_1.npy", "edu_val/train_9.npy"], ["edu/train_1.npy"], ["edu_val/train_9.npy"], []),
        (["train/0.bin", "train/1.bin", "validation/0.bin"], ["train/0.bin", "train/1.bin"], ["validation/0.bin"], []),
        (["train.bin", "valid.bin", "test.bin"], ["train.bin"], ["valid.bin"], ["test.bin"]),
        (["latest_0.bin", "value.bin", "val.bin"], ["latest_0.bin", "value.bin"], ["val.bin"], []),
        (["ShardTrain.bin", "ShardVal.bin", "TEST0.bin"], ["ShardTrain.bin"], ["ShardVal.bin"], ["TEST0.bin"]),
        (["0.bin", "1.bin", ".hidden.bin", ".git/2.bin", "a/b/3.bin", "note.txt"], ["0.bin", "1.bin"], [], []),
    ],
)  # fmt: skip
def test_names_say_what_a_file_is_for(
    tmp_path: Path, names: list[str], train: list[str], val: list[str], aside: list[str]
) -> None:
    for i, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(npy([i]) if name.endswith("npy") else nanogpt([i]))
    found = find_shards(tmp_path)
    assert [file.name for file in found.train] == train
    assert [file.name for file in found.val] == val
    assert list(found.aside) == aside


def test_val_files_replace_what_names_say(tmp_path: Path) -> None:
    edu = put(tmp_path / "edu", {"train_1.bin": nanogpt([1]), "train_2.bin": nanogpt([2]), "val_0.bin": nanogpt([3])})
    put(tmp_path / "held", {"b_train.bin": nanogpt([4]), "a_train.bin": nanogpt([5])})
    outside = described(edu, val_files=[str(tmp_path / "held")])
    assert [ids_of(edu, outside, split) for split in ("train", "val")] == [[1, 2], [5, 4]]
    assert find_shards(edu, val_files=[str(tmp_path / "held")]).aside == ("val_0.bin",)
    matched = described(edu, val_files=[str(tmp_path / "h*")])
    assert ids_of(edu, matched, "val") == [5, 4]
    inside = described(edu, val_files=[str(edu / "train_[2-9].bin")])
    assert [ids_of(edu, inside, split) for split in ("train", "val")] == [[1], [2]]
    one = described(edu, val_files=[str(tmp_path / "held/b_train.bin"), str(tmp_path / "held/b_train.bin")])
    assert ids_of(edu, one, "val") == [4]


def test_a_link_to_a_file_is_that_file(tmp_path: Path) -> None:
    put(tmp_path / "blobs", {"c0ffee": nanogpt([1, 2]), "beef": nanogpt([3]), "dead": nanogpt([4])})
    (tmp_path / "snapshot").mkdir()
    for name, blob in {"x_train_1.bin": "c0ffee", "x_train_2.bin": "dead", "x_val_0.bin": "beef"}.items():
        (tmp_path / "snapshot" / name).symlink_to(f"../blobs/{blob}")
    manifest = described(tmp_path / "snapshot")
    assert [ids_of(tmp_path / "snapshot", manifest, split) for split in ("train", "val")] == [[1, 2, 4], [3]]
    named = described(tmp_path / "snapshot", val_files=[str(tmp_path / "blobs/c0ffee")])
    assert [ids_of(tmp_path / "snapshot", named, split) for split in ("train", "val")] == [[4], [1, 2]]


# --- holding out the last tokens


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), fraction=st.floats(0.01, 0.99), eos=st.booleans())
def test_the_tail_is_held_out(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], fraction: float, eos: bool
) -> None:
    folder = tmp_path_factory.mktemp("tail")
    everything = [EOS if eos and i % 7 == 6 else i % 200 for i in range(sum(sizes))]
    start = 0
    for number, size in enumerate(sizes):
        (folder / f"{number}.bin").write_bytes(nanogpt(everything[start : start + size]))
        start += size
    manifest = described(folder, val_fraction=fraction)
    train, val = (ids_of(folder, manifest, split) for split in ("train", "val"))
    assert train + val == everything
    asked = round(len(everything) * fraction)
    assert asked / 2 <= len(val) <= asked
    near = everything[len(everything) - asked : len(everything) - asked + asked // 2]
    if EOS in near:
        assert train[-1] == EOS and len(val) == asked - near.index(EOS) - 1
    else:
        assert len(val) == asked
    stream = open_split(folder, manifest, "val")
    if val:
        name, offset = stream.where(0)
        assert sum(sizes[: int(name[0])]) + offset == len(train)


def test_a_wrong_id_in_the_tail_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    put(tmp_path, {"all.bin": nanogpt([*range(90), *range(10)])})
    manifest = described(tmp_path, val_fraction=0.2)
    put(tmp_path, {"all.bin": nanogpt([*range(90), *range(5), 300, *range(4)])})
    with pytest.raises(DataError, match=r"all\.bin: token 95 is 300; .* vocab_size, 257"):
        ids_of(tmp_path, manifest, "val")
    put(tmp_path, {"all.bin": nanogpt(range(50))})
    with pytest.raises(DataError, match=r"all\.bin: the file was changed while it was in use"):
        open_split(tmp_path, manifest, "val")


def test_nothing_is_held_out_where_nothing_says_what(tmp_path: Path) -> None:
    put(tmp_path, {"a.bin": nanogpt(range(100))})
    with pytest.raises(DataError, match=r"no file is held out.*--data\.val_files FILES.*--data\.val_fraction 0\.01"):
        described(tmp_path)
    assert len(ids_of(tmp_path, described(tmp_path, val_fraction=0.1), "val")) == 10


def test_a_file_on_both_sides_is_refused(tmp_path: Path) -> None:
    put(
        tmp_path,
        {"a_train_1.bin": nanogpt([1, 2, 3]), "a_train_2.bin": nanogpt([4]), "val/a_train_1.bin": nanogpt([1, 2, 3])},
    )
    with pytest.raises(DataError, match=r"val/a_train_1\.bin: holds the same ids as .*/a_train_1\.bin"):
        described(tmp_path)
    put(tmp_path, {"val/a_train_1.bin": nanogpt([1, 2, 4])})
    assert described(tmp_path).splits["train"].tokens == 4


# --- fingerprints, and folders of any size


def prints(manifest: Manifest) -> list[str]:
    return [file.sha256 for file in manifest.splits["train"].files]


@pytest.mark.parametrize("kind", ["nanogpt", "llmc", "npy"])
def test_fingerprints_change_with_any_id_and_with_nothing_else(tmp_path: Path, kind: str) -> None:
    ids = [i * i % 250 for i in range(200)]
    here = prints(described(write_shards(tmp_path / "a", kind, train=ids, val=[1])))
    assert prints(described(write_shards(tmp_path / "b", kind, train=ids, val=[2, 3]))) == here
    for place in (0, 77, 199):
        other = [*ids[:place], ids[place] ^ 1, *ids[place + 1 :]]
        assert prints(described(write_shards(tmp_path / "b", kind, train=other, val=[1]))) != here


def sparse(path: Path, tokens: int, **at: int) -> None:
    """A file of nanoGPT that is zero but for some ids, and takes no space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.truncate(2 * tokens)
        for place, token_id in at.items():
            stream.seek(2 * int(place.removeprefix("at_")))
            stream.write(struct.pack("<H", token_id))


def test_a_large_folder_is_checked_at_the_start_in_the_middle_and_at_the_end(tmp_path: Path) -> None:
    n = WHOLE_BYTES // 2 + 1000
    train, middle = tmp_path / "train.bin", (n - SAMPLE_TOKENS) // 2
    sparse(tmp_path / "val.bin", 100)
    sparse(train, n)
    before = prints(described(tmp_path))
    for place in (0, SAMPLE_TOKENS - 1, middle, middle + SAMPLE_TOKENS - 1, n - SAMPLE_TOKENS, n - 1):
        sparse(train, n, **{f"at_{place}": 300})
        with pytest.raises(DataError, match=rf"train\.bin: token {place} is 300"):
            described(tmp_path)
        sparse(train, n, **{f"at_{place}": 200})
        assert prints(described(tmp_path)) != before
    sparse(train, n, **{f"at_{SAMPLE_TOKENS}": 300})  # what is not looked at first is found when it is read
    assert prints(described(tmp_path)) == before
    with pytest.raises(DataError, match=rf"train\.bin: token {SAMPLE_TOKENS} is 300"):
        open_split(tmp_path, described(tmp_path), "train").read(SAMPLE_TOKENS - 5, SAMPLE_TOKENS + 5)
    sparse(train, n - 2000, **{f"at_{SAMPLE_TOKENS}": 300})  # the partner: a folder that is checked whole
    with pytest.raises(DataError, match=rf"train\.bin: token {SAMPLE_TOKENS} is 300"):
        described(tmp_path)


def test_the_first_batch_of_10_gigabytes_comes_at_once(tmp_path: Path) -> None:
    for i in range(50):
        sparse(tmp_path / f"x_train_{i:06d}.bin", 100_000_000)
    sparse(tmp_path / "x_val_000000.bin", 1_000_000, at_5=7)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) > 10e9
    began_s = time.process_time()
    manifest = described(tmp_path)
    stream = open_split(tmp_path, manifest, "train")
    count = n_windows(stream.n_tokens, 1024)
    rows = read_windows(stream, window_ids(0, 0, 64, n_windows=count), 1024)
    assert time.process_time() - began_s < 1  # 0.05 s where this was written; reading it all takes seconds
    assert rows.shape == (64, 1025) and stream.n_tokens == 5_000_000_000


def test_nothing_is_written(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "x", "llmc", train=list(range(200)))
    before = contents(folder)
    os.chmod(folder, 0o555)
    ids_of(folder, described(folder, val_fraction=0.1), "train")
    os.chmod(folder, 0o755)
    assert contents(folder) == before
