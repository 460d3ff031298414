"""What `inspect` says is what is there: counts by hand, samples that say how much was looked at, text, JSON and PNG."""

import json
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import smalllm
from foreign_helpers import NAMES, nanogpt, write_shards
from run_helpers import make_text, tree
from smalllm import cli
from smalllm.config import TokenizerConfig
from smalllm.data.shards import TokenStream
from smalllm.data.survey import N_PLACES, SAMPLE_TOKENS, WINDOW_TOKENS, length_edges, survey, window_starts
from smalllm.errors import ConfigError, DataError, TokenizerError
from smalllm.recipes import load_recipe, override

EOS = 256
BYTES = TokenizerConfig(kind="bytes")
DOCUMENTS = ("the cat", "", "a hen and a dog", "caf\u00e9 \u732b", "the end of it all, at last")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared directory of some documents."""
    folder = tmp_path_factory.mktemp("ours")
    (folder / "text.txt").write_text(make_text(30_000).replace("\n", "\n\n"))
    changes = {
        "data.files": (str(folder / "text.txt"),), "data.separator": "\n\n", "data.val_fraction": 0.2,
        "tokenizer.kind": "bytes",
    }  # fmt: skip
    smalllm.prepare(override(load_recipe("shakespeare"), changes), out=folder / "data")
    return folder / "data"


def appended(documents: tuple[str, ...]) -> list[int]:
    return [i for text in documents for i in (*text.encode(), EOS)]


def prepended(documents: tuple[str, ...]) -> list[int]:
    return [i for text in documents for i in (EOS, *text.encode())]


# --- our own data


def test_our_own_data(ours: Path) -> None:
    before = tree(ours)
    found = smalllm.inspect(ours)
    manifest = json.loads((ours / "manifest.json").read_text())
    assert found["format"] == manifest["format"] == "smalllm-shards" and found["path"] == str(ours)
    assert found["tokenizer"] == manifest["tokenizer"] and found["source"] == manifest["source"]
    assert "floor" not in found
    for name, split in manifest["splits"].items():
        shown = found["splits"][name]
        assert {key: shown[key] for key in ("tokens", "documents", "text_bytes")} == {
            key: split[key] for key in ("tokens", "documents", "text_bytes")
        }
        ids = np.fromfile(ours / f"{name}-00000.bin", "<u2").tolist()
        by_hand(shown["sample"], ids, documents=split["documents"], text_bytes=split["text_bytes"])
    assert tree(ours) == before


def by_hand(sample: dict[str, Any], ids: list[int], *, documents: int, text_bytes: int) -> None:
    """Compare a sample of the whole split with plain counting."""
    counts = Counter(ids)
    assert sample["tokens"] == len(ids) and sample["different_ids"] == len(counts)
    assert sample["bytes_per_token"] == pytest.approx(text_bytes / len(ids))
    top = sorted(counts, key=lambda i: (-counts[i], i))[:20]
    assert [(t["id"], t["count"]) for t in sample["top_tokens"]] == [(i, counts[i]) for i in top]
    assert all(t["share"] == counts[t["id"]] / len(ids) for t in sample["top_tokens"])
    assert [t["text"] for t in sample["top_tokens"]] == [chr(i) if i < 128 else "" for i in top]
    text = bytes(i if i < EOS else 0 for i in ids).decode()
    lengths = sorted(len(part.encode()) + 1 for part in text.removesuffix("\0").split("\0"))
    found = sample["document_tokens"]
    assert sample["documents"] == documents == len(lengths)
    assert (found["min"], found["max"]) == (lengths[0], lengths[-1])
    assert found["median"] == float(np.median(lengths)) and found["mean"] == pytest.approx(sum(lengths) / len(lengths))
    edges, in_bins = found["histogram"]["edges"], found["histogram"]["documents"]
    assert sum(in_bins) == len(lengths)
    for i, n in enumerate(in_bins):
        assert n == sum(edges[i] <= length < edges[i + 1] for length in lengths)
    for window in sample["windows"]:
        assert window["ids"] == ids[window["token"] : window["token"] + len(window["ids"])]
    assert [w["token"] for w in sample["windows"]] == window_starts(len(ids))


def test_a_known_floor_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = override(
        load_recipe("stories"), {"data.stories": 150, "data.val_fraction": 0.3, "tokenizer.kind": "bytes"}
    )
    manifest = smalllm.prepare(override(config, {"tokenizer.vocab_size": None}), out=tmp_path)
    assert manifest.floor is not None
    assert smalllm.inspect(tmp_path)["floor"]["nats"] == manifest.floor.nats
    assert cli.main(["inspect", str(tmp_path)]) == 0
    bits = manifest.floor.nats / manifest.floor.text_bytes / np.log(2)
    assert f"floor   {bits:.4f} bits per byte on val" in capsys.readouterr().out


# --- shards of other programs


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("layout", [appended, prepended])
def test_shards_of_another_program(tmp_path: Path, kind: str, layout: Any) -> None:
    folder = write_shards(tmp_path, kind, train=layout(DOCUMENTS), val=layout(DOCUMENTS[:2]))
    before = tree(folder)
    plain = smalllm.inspect(folder)
    assert (plain["format"], set(plain)) == (kind, {"path", "format", "splits"})
    assert {name: split["tokens"] for name, split in plain["splits"].items()} == {
        "train": len(layout(DOCUMENTS)),
        "val": len(layout(DOCUMENTS[:2])),
    }
    assert "documents" not in plain["splits"]["train"] and "documents" not in plain["splits"]["train"]["sample"]
    assert all("text" not in token for token in plain["splits"]["train"]["sample"]["top_tokens"])
    shown = smalllm.inspect(folder, tokenizer=BYTES)
    train = shown["splits"]["train"]
    assert train["documents"] == len(DOCUMENTS)
    assert train["text_bytes"] == sum(len(text.encode()) for text in DOCUMENTS)
    assert train["files"] == [{"name": NAMES[kind].format("train"), "tokens": train["tokens"], "dtype": "uint16"}]
    assert (
        train["sample"]["windows"][0]["text"] == bytes(i for i in layout(DOCUMENTS)[:WINDOW_TOKENS] if i < EOS).decode()
    )
    assert shown["tokenizer"]["kind"] == "bytes" and shown["tokenizer"]["eos_id"] == EOS
    assert tree(folder) == before


def test_what_is_there_is_shown_even_where_it_cannot_be_trained_on(tmp_path: Path) -> None:
    only_val = write_shards(tmp_path / "a", "npy", val=[1, 2])
    assert list(smalllm.inspect(only_val)["splits"]) == ["val"]
    only_train = write_shards(tmp_path / "b", "nanogpt", train=[1, 2])
    (only_train / "test.bin").write_bytes(nanogpt([1]))
    found = smalllm.inspect(only_train)
    assert list(found["splits"]) == ["train"] and found["aside"] == ["test.bin"]


def test_what_cannot_be_inspected(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.kind = bytes: .* records its own tokenizer"):
        smalllm.inspect(ours, tokenizer=BYTES)
    with pytest.raises(DataError, match="no prepared data here"):
        smalllm.inspect(tmp_path)
    folder = write_shards(tmp_path, "npy", train=[1, 300], val=[2])
    with pytest.raises(DataError, match=r"edufineweb_train_000001\.npy: token 1 is 300; .* vocab_size, 257"):
        smalllm.inspect(folder, tokenizer=BYTES)
    smalllm.inspect(folder)
    with pytest.raises(TokenizerError, match=r"--tokenizer\.path"):
        smalllm.inspect(folder, tokenizer=TokenizerConfig(kind="huggingface"))


# --- samples


def stream_of(ids: list[int]) -> TokenStream:
    return TokenStream([("x", np.array(ids, np.uint16))] if ids else [], vocab_size=257)


@given(st.lists(st.text(st.characters(max_codepoint=127), max_size=9), min_size=1, max_size=8), st.booleans())
def test_documents_of_a_whole_split(texts: list[str], before: bool) -> None:
    documents = tuple(texts)
    found = survey(stream_of(prepended(documents) if before else appended(documents)), eos_id=EOS)
    assert found.lengths is not None and found.is_whole
    assert sorted(found.lengths.tolist()) == sorted(len(text) + 1 for text in texts)


def test_documents_without_an_end() -> None:
    assert survey(stream_of([1, 2, EOS, 3]), eos_id=EOS).lengths.tolist() == [3, 1]  # type: ignore[union-attr]
    assert survey(stream_of([1, 2, 3]), eos_id=EOS).lengths.tolist() == [3]  # type: ignore[union-attr]
    nothing = survey(stream_of([]), eos_id=EOS)
    assert nothing.tokens == 0 and nothing.lengths is not None and not len(nothing.lengths)
    assert survey(stream_of([1]), eos_id=None).lengths is None


def test_a_large_split_is_sampled_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    n, length = 500 * 25_000, 500  # three times the sample
    ids = np.full(n, 7, np.uint16)
    ids[length - 1 :: length] = EOS
    ids.tofile(tmp_path / "train.bin")
    (tmp_path / "val.bin").write_bytes(nanogpt([1, 2]))
    train = smalllm.inspect(tmp_path, tokenizer=BYTES)["splits"]["train"]
    assert train["tokens"] == n and train["sample"]["tokens"] == SAMPLE_TOKENS
    assert "documents" not in train and "text_bytes" not in train  # they are not counted, so they are not said
    found = train["sample"]["document_tokens"]
    assert (found["min"], found["max"]) == (length, length)
    in_each = SAMPLE_TOKENS // N_PLACES // length
    assert in_each * N_PLACES - N_PLACES <= train["sample"]["documents"] <= in_each * N_PLACES
    assert train["sample"]["top_tokens"][0]["share"] == pytest.approx(1 - 1 / length, abs=1e-4)
    assert cli.main(["inspect", str(tmp_path), "--tokenizer.kind", "bytes"]) == 0
    assert "train, from 4.19M of its tokens" in capsys.readouterr().out


def test_a_huge_set_is_inspected_at_once(tmp_path: Path) -> None:
    with (tmp_path / "train.bin").open("wb") as stream:
        stream.truncate(10_000_000_000)  # sparse
        stream.write(struct.pack("<H", 9))
    found = smalllm.inspect(tmp_path)["splits"]["train"]
    assert found["tokens"] == 5_000_000_000 and found["sample"]["tokens"] == SAMPLE_TOKENS


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
def test_every_length_is_in_one_bin(lengths: list[int]) -> None:
    edges = length_edges(np.array(lengths))
    assert (np.diff(edges) > 0).all() and 2 <= len(edges) <= 43
    assert edges[0] <= min(lengths) and max(lengths) < edges[-1]
    assert np.histogram(lengths, edges)[0].sum() == len(lengths)


# --- the command


def test_json_is_what_the_function_returns(ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(ours), "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == smalllm.inspect(ours) and not shown.err
    assert shown.out.count("\n") == 1


def test_the_text(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(ours)]) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = smalllm.inspect(ours)["splits"]["train"]
    assert lines[0] == f"{ours}: smalllm-shards, bytes tokenizer, 257 ids"
    assert lines[1].split()[:5] == ["train", f"{facts['tokens']:,}", "tokens,", f"{facts['documents']:,}", "documents,"]
    assert f", {facts['text_bytes'] / 1024:.1f} KiB of text, " in lines[1]
    assert lines[1].endswith("bytes a token, 1 file of uint16") and "train, from all tokens" in lines
    bars = [line for line in lines if " to " in line and line.endswith("%")]
    assert 4 <= len(bars) <= 24 and any(40 * "#" in bar for bar in bars)
    assert any(line.startswith('    "') and '" "' not in line for line in lines)
    assert max(map(len, lines)) < 150
    evil = write_shards(tmp_path / "e\x1b[31m", "npy", train=list(b"\x1b[31mred\n" * 9), val=[7])
    assert cli.main(["inspect", str(evil), "--tokenizer.kind", "bytes"]) == 0
    out = capsys.readouterr().out
    assert "\\x1b[31mred\\n" in out and "e\\x1b[31m: npy" in out and "\x1b" not in out


def test_the_text_without_a_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path, "llmc", train=[50256, 262, 262, 11])
    assert cli.main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "llmc, tokenizer not known" in out and "262 50.0%" in out and "token 0: 50256 262 262 11\n" in out
    assert "no file is called val" in out and "--tokenizer.kind gpt2" in out
    assert cli.main(["inspect", str(tmp_path), "--tokenizer.path", "x"]) == 2
    assert "give its kind as well" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["ours", "one length", "no tokenizer", "only specials", "wide lengths"])
def test_the_picture(ours: Path, tmp_path: Path, case: str) -> None:
    ids = {"one length": [1, 2, EOS] * 9, "only specials": [EOS] * 5, "no tokenizer": [1, 2, 3]}
    wide = [i for n in range(1, 12) for i in (*[36] * 2**n, EOS)]  # dollars, which are mathematics elsewhere
    tokenizer = None if case in ("ours", "no tokenizer") else BYTES
    folder = ours if case == "ours" else write_shards(tmp_path / "x$y$", "npy", train=ids.get(case, wide), val=[5, EOS])
    png = tmp_path / "new" / "picture.png"
    smalllm.inspect(folder, tokenizer=tokenizer, png=png)
    content = png.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    assert content.startswith(b"\x89PNG") and height == 960 and width == (1300 if case == "no tokenizer" else 2200)
    assert [path.name for path in png.parent.iterdir()] == ["picture.png"]
    smalllm.inspect(folder, tokenizer=tokenizer, png=tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == content


def test_the_command_as_a_program(ours: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "smalllm", "inspect", str(ours), "--png", str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.endswith(f"\npicture: {tmp_path / 'a.png'}\n")
