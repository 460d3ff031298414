"""Parts of a data directory become one, whatever the interruptions; what is not right is named and nothing is moved."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_helpers import bytes_tokenizer, documents_of, file_texts, write_all, writer
from data_helpers import texts_of

from run_helpers import rewrite_json, tree
from smalllm import merge_parts
from smalllm.data.parts import part_path
from smalllm.data.shards import read_manifest, verify_shards
from smalllm.data.summary import read_summary
from smalllm.errors import DataError, TokenizerError

LOCKS = (".prepare.lock",)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return bytes_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def out(tmp_path: Path, tokenizer: Path) -> Path:
    """Three finished parts."""
    write_all(tmp_path / "out", tokenizer, n_tasks=3)
    return tmp_path / "out"


def files(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in tree(folder).items() if not name.endswith(LOCKS)}


@pytest.mark.parametrize("n_tasks", [1, 3, 5, 7])
def test_parts_hold_every_document_in_the_order_of_the_tasks(tmp_path: Path, tokenizer: Path, n_tasks: int) -> None:
    """Seven tasks for five files: two have nothing to do."""
    out = tmp_path / "out"
    for folder, number in ((out, n_tasks), (tmp_path / "whole", 1)):
        write_all(folder, tokenizer, n_tasks=number)
        merge_parts(folder)
    manifest, whole = read_manifest(out), read_manifest(tmp_path / "whole")
    verify_shards(out, manifest)
    assert manifest.source["tasks"] == n_tasks and "task" not in manifest.source
    assert manifest.floor is None
    dealt = [doc.text for task in range(n_tasks) for doc in documents_of(file_texts(), task, n_tasks)]
    for split in ("train", "val"):
        texts = texts_of(out, split)
        assert texts == [text for text in dealt if text in set(texts)]
        assert sorted(texts) == sorted(texts_of(tmp_path / "whole", split))
        totals, expected = manifest.splits[split], whole.splits[split]
        assert (totals.documents, totals.text_bytes) == (expected.documents, expected.text_bytes)
    assert read_summary(out) == read_summary(tmp_path / "whole")
    names = {path.name for path in (out).iterdir()} - set(LOCKS)
    shards = {file.name for split in manifest.splits.values() for file in split.files}
    assert names == {"manifest.json", "summary.json", "tokenizer"} | shards


def test_merging_again_changes_nothing(out: Path) -> None:
    manifest = merge_parts(out)
    before = tree(out)
    out.chmod(0o555)
    assert merge_parts(out) == manifest
    out.chmod(0o755)
    assert tree(out) == before


def test_a_merge_continues_wherever_it_was_stopped(tmp_path: Path, out: Path) -> None:
    """What it does, one step after the other: the tokenizer, each shard, the manifest, the parts."""
    shutil.copytree(out, tmp_path / "whole")
    merge_parts(tmp_path / "whole")
    expected = files(tmp_path / "whole")
    final = read_manifest(tmp_path / "whole").splits
    moves = [
        (part_path(out, task) / file.name, out / target.name)
        for split in ("train", "val")
        for (task, file), target in zip(
            [(task, f) for task in range(3) for f in read_manifest(part_path(out, task)).splits[split].files],
            final[split].files,
            strict=True,
        )
    ]
    assert len(moves) > 6
    for n_moved in range(len(moves) + 1):
        cut = tmp_path / f"cut-{n_moved}"
        shutil.copytree(out, cut)
        shutil.copytree(cut / "parts/00000/tokenizer", cut / ("tokenizer.tmp" if n_moved == 0 else "tokenizer"))
        for source, target in moves[:n_moved]:
            (cut / source.relative_to(out)).rename(cut / target.name)
        merge_parts(cut)
        assert files(cut) == expected
    shutil.copytree(out / "parts/00001", cut / "parts/00001")  # stopped while it deleted them
    merge_parts(cut)
    assert files(cut) == expected


def test_a_moved_shard_is_checked_too(out: Path) -> None:
    """The partner: the check does not end with the rename."""
    target = out / "train-00000.bin"
    (out / "parts/00000/train-00000.bin").rename(target)
    content = bytearray(target.read_bytes())
    content[0] ^= 1
    target.write_bytes(content)
    with pytest.raises(DataError, match=r"out/train-00000\.bin: the file was altered"):
        merge_parts(out)


def remove(name: str) -> Callable[[Path], None]:
    return lambda out: shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()


def write(name: str, content: bytes = b"mine") -> Callable[[Path], None]:
    return lambda out: (out / name).write_bytes(content)


def cut(name: str) -> Callable[[Path], None]:
    return lambda out: (out / name).write_bytes((out / name).read_bytes()[:-2])


def flip(name: str) -> Callable[[Path], None]:
    return lambda out: (out / name).write_bytes((out / name).read_bytes()[::-1])


def edit(name: str, key: str, **changes: Any) -> Callable[[Path], None]:
    return lambda out: rewrite_json(out / name, **{key: json.loads((out / name).read_text())[key] | changes})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (remove("parts/00001"), "1 of 3 tasks have not finished: 1. Run"),
        (remove("parts/00002/manifest.json"), "1 of 3 tasks have not finished: 2. Run"),
        (remove("parts"), "found no finished part in parts/"),
        (cut("parts/00001/train-00000.bin"), r"parts/00001/train-00000\.bin: the file has"),
        (flip("parts/00001/val-00000.bin"), r"parts/00001/val-00000\.bin: the file was altered"),
        (remove("parts/00002/train-00000.bin"), r"parts/00002/train-00000\.bin: the file is missing"),
        (write("parts/00002/manifest.json"), r"parts/00002/manifest\.json: "),
        (edit("parts/00002/manifest.json", "source", tasks=4), r"parts/00002: .* source\.tasks is 4, in 00000 3"),
        (edit("parts/00002/manifest.json", "source", task=1), "parts/00002: its manifest says that it is part 1 of 3"),
        (edit("parts/00002/manifest.json", "source", task="2"), "parts/00002: its manifest says"),
        (edit("parts/00000/manifest.json", "source", tasks=None), "parts/00000: its manifest says"),
        (edit("parts/00001/manifest.json", "source", text="other"), 'source.text is "other", in 00000 "test"'),
        (edit("parts/00001/manifest.json", "source", shard_tokens=5), "source.shard_tokens is 5, in 00000 900"),
        (edit("parts/00001/manifest.json", "tokenizer", sha256="ab"), 'tokenizer.sha256 is "ab", in 00000 "'),
        (write("train-00077.bin"), r"holds train-00077\.bin, which is of none of its parts"),
        (write("train-00000.bin"), r"train-00000\.bin: is there already, beside .*parts/00000/train-00000\.bin"),
    ],
)
def test_what_is_not_right_is_named_and_nothing_is_moved(out: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(out)
    before = files(out)
    with pytest.raises(DataError, match=said):
        merge_parts(out)
    assert {n: d for n, d in files(out).items() if not n.startswith("tokenizer/")} == before


def test_other_directories_are_not_merged(tmp_path: Path, out: Path) -> None:
    with pytest.raises(DataError, match="found no finished part"):
        merge_parts(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    manifest = merge_parts(out)
    source = {key: value for key, value in manifest.source.items() if key != "tasks"}
    rewrite_json(out / "manifest.json", source=source)
    with pytest.raises(DataError, match="not prepared in parts"):
        merge_parts(out)


def test_missing_tasks_are_told_in_short(tmp_path: Path, tokenizer: Path) -> None:
    for task in (0, 4, 39):
        writer(tmp_path / "out", tokenizer)([], task, 40)
    with pytest.raises(DataError, match="37 of 40 tasks have not finished: 1-3, 5-38"):
        merge_parts(tmp_path / "out")


def test_an_empty_split_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    write_all(tmp_path / "out", tokenizer, n_tasks=2, val_fraction=1e-9)
    before = files(tmp_path / "out")
    with pytest.raises(DataError, match="no documents for val"):
        merge_parts(tmp_path / "out")
    assert before.items() <= files(tmp_path / "out").items()


def test_the_tokenizer_must_be_that_of_the_parts(tmp_path: Path, out: Path) -> None:
    shutil.copytree(out / "parts/00000/tokenizer", out / "tokenizer")
    rewrite_json(out / "tokenizer/smalllm.json", vocab_size=300)
    with pytest.raises(TokenizerError, match="was altered"):
        merge_parts(out)
    shutil.rmtree(out / "tokenizer")
    for task in range(3):
        found = json.loads((part_path(out, task) / "manifest.json").read_text())["tokenizer"]
        rewrite_json(part_path(out, task) / "manifest.json", tokenizer=found | {"sha256": "ab" * 32})
    with pytest.raises(TokenizerError, match="but the parts were made with bytes abab"):
        merge_parts(out)
    assert (out / "parts/00000/train-00000.bin").exists()
