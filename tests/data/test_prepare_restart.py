"""Interruptions of a preparation: the same call ends with the same bytes, or says why it cannot."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from data_helpers import Interrupted, contents, encode_batch, interrupting, run, stories

from smalllm.data import pieces
from smalllm.data.document import Document
from smalllm.data.shards import (
    TokenizerFacts,
)
from smalllm.errors import DataError


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "BATCH_BYTES", 100)


def failing_at(call: int) -> Callable[[Sequence[str]], list[list[int]]]:
    """An encode_batch whose `call`-th call raises."""
    found: Callable[[Sequence[str]], list[list[int]]] = interrupting(call, saved=True)["encode_batch"]
    return found


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("shard_tokens", [150, 10_000])
def test_any_interruption_leaves_the_same_bytes(
    tmp_path: Path, small_batches: None, shard_tokens: int, saved: bool
) -> None:
    documents = [Document(d.text, d.origin, log_prob=-0.1, final=d.final) for d in stories(40)]
    expected = run(documents, tmp_path / "whole", shard_tokens=shard_tokens)
    n_interrupted = 0
    while True:
        out = tmp_path / f"cut-{n_interrupted}"
        try:
            run(documents, out, shard_tokens=shard_tokens, **interrupting(n_interrupted + 1, saved=saved))
            break
        except Interrupted:
            n_interrupted += 1
        # A restart may be interrupted as well, unless nothing is left to encode.
        with suppress(Interrupted):
            run(documents, out, shard_tokens=shard_tokens, encode_batch=failing_at(1))
        assert run(documents, out, shard_tokens=shard_tokens) == expected
        assert contents(out) == contents(tmp_path / "whole")
    assert n_interrupted > 15


def test_repeated_interruptions_still_get_there(tmp_path: Path, small_batches: None) -> None:
    """Every second call fails: work that was saved is not done again, so this ends."""
    documents = stories(60)
    expected = run(documents, tmp_path / "whole", shard_tokens=50)
    n_failed = 0
    while True:
        try:
            assert run(documents, tmp_path / "cut", shard_tokens=50, encode_batch=failing_at(3)) == expected
            break
        except Interrupted:
            n_failed += 1
    assert n_failed > 10
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_an_error_keeps_all_that_came_before_it(tmp_path: Path, small_batches: None) -> None:
    """Not only what was recorded by the way: the next process begins with the text that failed."""
    with pytest.raises(Interrupted):
        run(stories(60), tmp_path, shard_tokens=10**6, encode_batch=failing_at(20))
    seen: list[str] = []

    def noting(texts: Sequence[str]) -> list[list[int]]:
        seen.extend(texts)
        return encode_batch(texts)

    run(stories(60), tmp_path, shard_tokens=10**6, encode_batch=noting)
    texts = [document.text for document in stories(60)]
    assert seen == texts[-len(seen) :] and 0 < len(seen) < len(texts) - 20
    # The partner: a crash keeps less.
    seen.clear()
    with pytest.raises(Interrupted):
        run(stories(60), tmp_path / "crash", shard_tokens=10**6, **interrupting(20, saved=False))
    run(stories(60), tmp_path / "crash", shard_tokens=10**6, encode_batch=noting)
    assert seen == texts


def test_finished_shards_are_not_made_again(tmp_path: Path, small_batches: None) -> None:
    documents = stories(60)
    with pytest.raises(Interrupted):
        run(documents, tmp_path, encode_batch=failing_at(20))
    seen = 0

    def counting(texts: Sequence[str]) -> list[list[int]]:
        nonlocal seen
        seen += len(texts)
        return encode_batch(texts)

    run(documents, tmp_path, encode_batch=counting)
    assert seen < len(documents) - 20


def test_the_restart_check_sees_lost_progress(tmp_path: Path, small_batches: None) -> None:
    """The partner: with one document too few in the progress file, the bytes do differ."""
    documents = stories(60)
    run(documents, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(documents, tmp_path / "cut", encode_batch=failing_at(20))
    path = tmp_path / "cut" / ".prepare.json"
    before = path.read_text()
    n_pieces = int(before.split('"pieces": ')[1].split(",")[0])
    path.write_text(before.replace(f'"pieces": {n_pieces}', f'"pieces": {n_pieces - 1}'))
    run(documents, tmp_path / "cut")
    assert contents(tmp_path / "cut") != contents(tmp_path / "whole")


def test_finished_data_is_returned_and_not_made_again(tmp_path: Path) -> None:
    manifest = run(stories(20), tmp_path)
    before = contents(tmp_path)
    tmp_path.chmod(0o555)
    assert run([], tmp_path, encode_batch=failing_at(1)) == manifest
    tmp_path.chmod(0o755)
    assert contents(tmp_path) == before
    path = tmp_path / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"train-00000\.bin"):
        run(stories(20), tmp_path)


def test_stopped_between_manifest_and_cleaning_up(tmp_path: Path) -> None:
    manifest = run(stories(20), tmp_path)
    (tmp_path / ".prepare.json").write_text("{}")
    assert run(stories(20), tmp_path) == manifest
    assert not (tmp_path / ".prepare.json").exists()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"val_fraction": 0.4}, r"source.val_fraction is 0\.3, asked for 0\.4"),
        ({"shard_tokens": 65}, "source.shard_tokens is 64, asked for 65"),
        ({"source": {"name": "other"}}, 'source.name is "test", asked for "other"'),
        ({"source": {"name": "test", "url": "u"}}, 'source.url is null, asked for "u"'),
        ({"tokenizer": TokenizerFacts("bytes", "cd" * 32, 257, 256)}, "tokenizer.sha256 is"),
    ],
)
def test_other_arguments_are_refused_by_name(
    tmp_path: Path, small_batches: None, finished: bool, changes: dict[str, Any], named: str
) -> None:
    if finished:
        run(stories(20), tmp_path)
    else:
        with pytest.raises(Interrupted):
            run(stories(20), tmp_path, encode_batch=failing_at(5))
    before = contents(tmp_path)
    with pytest.raises(DataError, match=named):
        run(stories(20), tmp_path, **changes)
    assert contents(tmp_path) | before == before  # at most the lock file, which is the same, was touched


def test_files_of_others_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "train-00000.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"holds train-00000\.bin"):
        run(stories(20), tmp_path)
    assert (tmp_path / "train-00000.bin").read_bytes() == b"mine"
    (tmp_path / "train-00000.bin").unlink()
    (tmp_path / "tokenizer").mkdir()
    run(stories(20), tmp_path)


def test_changed_files_stop_a_restart(tmp_path: Path, small_batches: None) -> None:
    for name, cut in [("train-00000.bin", 2), ("train-00001.bin", 2)]:
        out = tmp_path / name
        with pytest.raises(Interrupted):
            run(stories(20), out, shard_tokens=300, encode_batch=failing_at(8))
        path = out / name
        assert path.exists()
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(DataError, match=name):
            run(stories(20), out, shard_tokens=300)
    (out / ".prepare.json").write_text('{"pieces": 3}')
    with pytest.raises(DataError, match=r"\.prepare\.json"):
        run(stories(20), out, shard_tokens=300)


def test_source_that_became_shorter_stops_a_restart(tmp_path: Path, small_batches: None) -> None:
    with pytest.raises(Interrupted):
        run(stories(40), tmp_path, encode_batch=failing_at(15))
    with pytest.raises(DataError, match="the source now has 3: it has changed"):
        run(stories(40)[:3], tmp_path)
