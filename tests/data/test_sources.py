"""Files become documents without loss, whatever the block size; what cannot be read is named and placed."""

import gzip
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smalllm.data.download import fetch_url
from smalllm.data.record_files import ROWS_AT_ONCE
from smalllm.data.sources import (
    Document,
    expand_files,
    read_files,
    read_python_library,
    read_whole_text,
)
from smalllm.data.text_files import cut_document, find_cut, read_text, split_documents
from smalllm.errors import DataError

SEPARATOR = "<|endoftext|>"
PIECES = st.sampled_from(["\n", "\r\n", "a", "é", "<", "|", "<|end", "oftext|>", SEPARATOR, "\n\n", "word "])


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts_of(path: Path, *, separator: str | None = None, text_column: str = "text") -> list[str]:
    return joined(read_files([path], separator=separator, text_column=text_column))


def joined(documents: Iterator[Document]) -> list[str]:
    """Whole texts: the parts of a long document put together again."""
    texts, parts = [], []
    for document in documents:
        assert document.text
        parts.append(document.text)
        if document.final:
            texts.append("".join(parts))
            parts = []
    assert not parts
    return texts


def naive_split(text: str, separator: str | None) -> list[str]:
    pieces = [text] if separator is None else [piece.strip("\r\n") for piece in text.split(separator)]
    return [piece for piece in pieces if piece.strip("\r\n")]


# Text files


@given(
    pieces=st.lists(PIECES, min_size=1, max_size=30),
    separator=st.sampled_from([SEPARATOR, "\n\n", "\n", "aa", None]),
    block_bytes=st.integers(1, 40),
    max_part_characters=st.integers(1, 50),
)
@example(pieces=["a", "\n", "\n", SEPARATOR, "b"], separator=SEPARATOR, block_bytes=1, max_part_characters=1)
@settings(max_examples=400, deadline=None)
def test_streamed_splitting_equals_the_naive_split(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[str],
    separator: str | None,
    block_bytes: int,
    max_part_characters: int,
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "stream.txt", "".join(pieces))
    documents = read_text(path, separator=separator, block_bytes=block_bytes, max_part_characters=max_part_characters)
    assert joined(documents) == naive_split("".join(pieces), separator)


def test_a_splitter_that_forgets_block_borders_is_caught() -> None:
    text = f"one{SEPARATOR}two"
    blocks = [text[:8], text[8:]]
    forgetful = [piece for block in blocks for piece in block.split(SEPARATOR)]
    split = [part for _, part, _ in split_documents(iter(blocks), separator=SEPARATOR, max_part_characters=99)]
    assert split == naive_split(text, SEPARATOR) != forgetful


def test_text_files_keep_every_byte(tmp_path: Path) -> None:
    text = "first line\r\n\r\n  second\r\nthird \u2028 é\n\n"
    for name in ("a.txt", "b.md", "c.py"):
        assert texts_of(write(tmp_path / name, text)) == [text]
    assert texts_of(write(tmp_path / "d.txt.gz", gzip.compress(text.encode()))) == [text]
    assert texts_of(write(tmp_path / "bom.txt", b"\xef\xbb\xbfa\xef\xbb\xbfb")) == ["a\ufeffb"]
    [document] = read_files([tmp_path / "a.txt"], separator=None, split="val")
    assert document == Document(text, f"{tmp_path.name}/a.txt", split="val")


def test_pieces_of_a_text_file_say_which_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "s" / "stories.txt", f"\nOne.\nTwo.\n{SEPARATOR}\r\n{SEPARATOR}\nThree.")
    documents = list(read_files([path], separator=SEPARATOR))
    assert documents == [Document("One.\nTwo.", "s/stories.txt:1"), Document("Three.", "s/stories.txt:3")]


def test_long_documents_come_in_parts_cut_at_newlines(tmp_path: Path) -> None:
    lines = [f"line {i}\n" for i in range(40)]
    path = write(tmp_path / "long.txt", "".join(lines))
    parts = list(read_text(path, separator=None, max_part_characters=30))
    assert [part.final for part in parts] == [False] * (len(parts) - 1) + [True]
    assert all(len(part.text) <= 30 for part in parts)
    assert all(part.text.startswith("\n") for part in parts[1:])
    assert "".join(part.text for part in parts) == "".join(lines)
    assert list(cut_document(Document("\r\n\n", "x"))) == []
    assert joined(cut_document(Document("word" * 9, "x"), max_part_characters=7)) == ["word" * 9]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    import tracemalloc

    path = write(tmp_path / "big.txt", ("sixteen letters\n" * 65_536 + SEPARATOR) * 12)
    tracemalloc.start()
    n_characters = sum(
        len(part.text)
        for part in read_text(path, separator=SEPARATOR, block_bytes=1 << 16, max_part_characters=1 << 18)
    )
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert n_characters == (65_536 * 16 - 1) * 12
    assert peak_bytes < 4_000_000 < path.stat().st_size


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\r\n", "holds no text"),
        (b"abc\0def", "is not text: byte 3 is zero"),
        (b"abc\xe9def", "is not UTF-8: byte 3"),
        ("é" * 5 + "x", None),
        ("é".encode() * 5 + b"\xc3", r"is not UTF-8: byte 10 \(unexpected end"),
        ("caf\u00e9".encode("utf-16"), "is not UTF-8: byte 0|is not text: byte"),
    ],
)
def test_what_is_not_text_is_named_with_its_byte(tmp_path: Path, content: str | bytes, message: str | None) -> None:
    path = write(tmp_path / "a.txt", content)
    if message is None:
        assert joined(read_text(path, separator=None, block_bytes=3)) == [content]
        return
    with pytest.raises(DataError, match=message):
        list(read_files([path], separator=None))
    if "byte" in message:
        with pytest.raises(DataError, match=message):
            list(read_text(path, separator=None, block_bytes=1))


def test_missing_files_and_damaged_archives_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt cannot be read"):
        texts_of(tmp_path / "nowhere.txt")
    packed = gzip.compress(b"a long enough text " * 50)
    for content in (b"not packed", packed[:-9], packed[:20] + b"\xff" * 20 + packed[40:]):
        with pytest.raises(DataError, match=r"a\.txt\.gz is not a whole gzip file"):
            texts_of(write(tmp_path / "a.txt.gz", content))


# JSON Lines and Parquet


def test_json_lines(tmp_path: Path) -> None:
    rows = [{"text": "one\r\ntwo\0", "id": 1}, {"text": ""}, {"text": "é \u2581 \U0001f600"}]
    content = "\ufeff" + "".join(json.dumps(row) + "\n" for row in rows) + "\n   \n" + json.dumps({"text": "last"})
    path = write(tmp_path / "d" / "rows.jsonl", content)
    documents = list(read_files([path], separator=SEPARATOR))
    assert [document.text for document in documents] == ["one\r\ntwo\0", "é \u2581 \U0001f600", "last"]
    assert [document.origin for document in documents] == [
        "d/rows.jsonl:1",
        "d/rows.jsonl:3",
        "d/rows.jsonl:6",
    ]
    assert texts_of(write(tmp_path / "rows.jsonl.gz", gzip.compress(path.read_bytes()))) == [d.text for d in documents]
    assert texts_of(write(tmp_path / "b.ndjson", '{"body": "x"}'), text_column="body") == ["x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{oops", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'["text"]', "is not a JSON object"),
        (b'{"id": 1, "body": "x"}', "has no 'text', only 'id', 'body'; name the one"),
        (b'{"text": 5}', "'text' is int, not a string"),
        (b'{"text": null}', "'text' is null, not a string"),
        (b'{"text": "\xe9"}', "is not UTF-8: byte 10 of the line"),
        (b'{"text": "\\ud83d!"}', "the text holds half a surrogate pair"),
    ],
)
def test_bad_json_lines_are_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "good"}\n\n' + line + b"\n")
    documents = read_files([path], separator=None)
    assert next(documents).text == "good"
    with pytest.raises(DataError, match=rf"a\.jsonl:3:? {message}"):
        list(documents)


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


def test_parquet(tmp_path: Path) -> None:
    import pyarrow

    texts = [f"row {i}\r\n" if i % 7 else "" for i in range(2 * ROWS_AT_ONCE + 5)]
    path = write_parquet(tmp_path / "a.parquet", {"id": range(len(texts)), "body": texts}, row_group_size=100)
    documents = list(read_files([path], separator=None, text_column="body"))
    assert [document.text for document in documents] == [text for text in texts if text]
    assert documents[0].origin == f"{tmp_path.name}/a.parquet:2"
    for kind in (pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        assert texts_of(write_parquet(path, {"text": pyarrow.array(["x", "y"], kind)})) == ["x", "y"]


def test_bad_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    bad: list[tuple[dict[str, Any], str]] = [
        ({"id": [1], "body": ["x"]}, "has no column 'text', only 'id', 'body'"),
        ({"text": [1, 2]}, "the column 'text' holds int64, not strings"),
        ({"text": ["x", None]}, "row 2: 'text' is null"),
    ]
    for columns, message in bad:
        with pytest.raises(DataError, match=message):
            texts_of(write_parquet(path, columns))
    whole = write_parquet(path, {"text": ["some text " * 9] * 999}).read_bytes()
    for content in (b"PAR1", whole[:-9], b"x" * 100, whole[:4] + b"\xff" * 60 + whole[64:]):
        with pytest.raises(DataError, match="is not a whole Parquet file"):
            texts_of(write(path, content))


# What the user names


def test_names_folders_and_globs_become_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "b.txt",
        "a.txt",
        "deep/er/c.jsonl",
        "deep/d.md",
        "deep/e.txt.gz",
        "deep/x.png",
        ".git/f.txt",
        "s.py",
    ):
        write(tmp_path / name, "x")
    write(tmp_path / "deep" / "empty.txt", "")
    monkeypatch.chdir(tmp_path)
    assert expand_files(["b.txt", "a.txt", "*.txt"]) == [Path("a.txt"), Path("b.txt")]
    assert expand_files(["deep", "*.py"]) == [
        Path("deep/d.md"),
        Path("deep/e.txt.gz"),
        Path("deep/er/c.jsonl"),
        Path("s.py"),
    ]
    assert expand_files(["**/*.jsonl"]) == [Path("deep/er/c.jsonl")]
    assert Path(".git/f.txt") not in expand_files(["."])
    write(tmp_path / "a[1].txt", "x")
    assert expand_files(["a[1].txt"]) == [Path("a[1].txt")]
    write(tmp_path / "pictures" / "x.png", "x")
    for pattern, message in [
        ("*.csv", r"\*\.csv matches no file"),
        ("nowhere/a.txt", "matches no file"),
        ("pictures", "the folder pictures holds no text files; expected .txt"),
    ]:
        with pytest.raises(DataError, match=message):
            expand_files(["a.txt", pattern])


@given(
    pieces=st.lists(st.sampled_from(["a line\n", "é", "\n", "word ", "\r\n", "日本"]), min_size=1, max_size=20),
    val_fraction=st.floats(0, 0.9),
)
@settings(deadline=None)
def test_whole_text_is_cut_once(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], val_fraction: float
) -> None:
    text = "x" + "".join(pieces)
    path = write(tmp_path_factory.getbasetemp() / "whole.txt", text)
    sides = {"train": "", "val": ""}
    for document in read_whole_text(path, val_fraction=val_fraction):
        sides[document.split or ""] += document.text
    # A side of nothing but newlines is no document.
    assert text.startswith(sides["train"])
    assert (sides["train"] + sides["val"]).strip("\r\n") == text.strip("\r\n")
    size_bytes = len(text.encode())
    assert len(sides["val"].encode()) >= round(size_bytes * val_fraction) or not sides["val"]
    if val_fraction == 0:
        assert sides == {"train": text, "val": ""}


def test_whole_text_is_cut_after_a_newline(tmp_path: Path) -> None:
    path = write(tmp_path / "play.txt", "".join(f"line {i:03}\n" for i in range(100)))
    train, val = read_whole_text(path, val_fraction=0.105)
    assert (train.split, val.split) == ("train", "val")
    assert val.text.startswith("line 089\n")
    assert train.final and val.final
    # Far from any newline it is still between two characters.
    assert find_cut(write(tmp_path / "one.txt", "\n" + "日" * 100), at_bytes=150, block_bytes=20) == 148
    with pytest.raises(DataError, match="cannot be read"):
        list(read_whole_text(tmp_path / "nowhere.txt", val_fraction=0.1))
    with pytest.raises(DataError, match="holds nothing but newlines"):
        list(read_whole_text(write(tmp_path / "empty.txt", "\n\n\n"), val_fraction=0.5))
    with pytest.raises(DataError, match="is packed"):
        list(read_whole_text(write(tmp_path / "a.txt.gz", gzip.compress(b"text")), val_fraction=0.5))


@pytest.mark.parametrize(
    ("text", "val_bytes"),
    [
        ("Title\n" + "word " * 20_000, 1000),  # one long line
        ("Title\n" + "word " * 200, 10),
        ("Title\n\n" + "日" * 30_050, 903),
        ("é" * 3, 0),
        ("".join(f"{'word ' * 800}{i:03}\n" for i in range(50)), 4004),  # long lines stay whole
        ("a line\n" * 10, 7),  # so does a line longer than what is held out
    ],
)
def test_few_newlines_move_the_cut_no_further_than_a_line(tmp_path: Path, text: str, val_bytes: int) -> None:
    path = write(tmp_path / "text.txt", text)
    documents = list(read_whole_text(path, val_fraction=0.01))
    assert "".join(document.text for document in documents) == text
    found = sum(len(document.text.encode()) for document in documents if document.split == "val")
    assert found == val_bytes


def test_the_python_library_is_text_on_every_machine() -> None:
    documents = list(read_python_library())
    origins = [document.origin for document in documents]
    assert origins == sorted(origins, key=lambda origin: Path(origin).parts)
    assert "python/json/decoder.py" in origins
    assert not any("site-packages" in origin or "/test/" in origin for origin in origins)
    assert sum(len(document.text) for document in documents) > 1_000_000
    assert all(document.final and document.text.strip() for document in documents)


# Downloads


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `content` at /good.txt, half of it at /half.txt, and counts."""

    content = b"some text\n" * 1000
    n_requests = 0

    def do_GET(self) -> None:
        type(self).n_requests += 1
        if self.path not in ("/good.txt", "/half.txt"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content if self.path == "/good.txt" else self.content[:4321])

    def log_message(self, *arguments: object) -> None:
        """Keep the test output quiet."""


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Server.n_requests = 0
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_fetched_file_is_whole_checked_and_kept(address: str, tmp_path: Path) -> None:
    right = hashlib.sha256(Server.content).hexdigest()
    for sha256 in (None, right, right.upper()):
        path = fetch_url(f"{address}/good.txt", sha256=sha256, cache=tmp_path / "cache")
        assert path.read_bytes() == Server.content
        assert path.name.endswith("good.txt")
    assert Server.n_requests == 1
    path.write_bytes(b"damaged")
    assert fetch_url(f"{address}/good.txt", sha256=right, cache=tmp_path / "cache").read_bytes() == Server.content
    assert Server.n_requests == 2
    assert list((tmp_path / "cache").iterdir()) == [path]


def test_what_cannot_be_fetched_leaves_nothing_behind(address: str, tmp_path: Path) -> None:
    for url, sha256, message in [
        (f"{address}/none.txt", None, "none.txt answered 404 Not Found"),
        (f"{address}/half.txt", None, "broke off after 4,321 of 10,000 bytes"),
        (f"{address}/good.txt", "0" * 64, "has the sha256 .* expected 0000"),
        ("http://127.0.0.1:9/x", None, "could not be fetched .*refused"),
        ("file:///nowhere/x.txt", None, "could not be fetched"),
        ("ftp://host/x", None, "expected https://, http:// or file:///"),
        ("x.txt", None, "is not an address"),
    ]:
        with pytest.raises(DataError, match=message):
            fetch_url(url, sha256=sha256, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_address_is_copied(tmp_path: Path) -> None:
    source = write(tmp_path / "a b.txt", "text")
    assert fetch_url(source.as_uri(), sha256=None, cache=tmp_path / "cache").read_text() == "text"
    write(tmp_path / "file", "not a folder")
    with pytest.raises(DataError, match="nothing can be written to the cache"):
        fetch_url(source.as_uri(), sha256=None, cache=tmp_path / "file")
