"""Documents in one window do not see each other: by gradient, by each document alone, and by loops over positions."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from smalllm.config import ModelConfig
from smalllm.model.documents import Documents, find_documents
from smalllm.model.gpt import GPT
from smalllm.model.kv_cache import KVCache

MakeModel = Callable[..., GPT]
EOS = 60
# The rest of a document, two whole ones, one without text, and the beginning of another; a window that begins with a
# document; a window that is one document's middle.
ENDS = [(5, 9, 10, 13), (0, 7), ()]


@pytest.fixture
def packed(token_ids: Tensor) -> Tensor:
    """Windows with end tokens at `ENDS` and nowhere else."""
    ids = token_ids[: len(ENDS)].clamp(max=EOS - 1)
    for row, ends in zip(ids, ENDS, strict=True):
        row[list(ends)] = EOS
    return ids


def pieces(ids: Tensor) -> Iterator[tuple[int, int, int]]:
    """(row, start, stop) of each document's part in a window, found with a loop."""
    for number, row in enumerate(ids.tolist()):
        starts = sorted({0, *(t for t, token in enumerate(row) if token == EOS)})
        yield from ((number, *ends) for ends in zip(starts, [*starts[1:], len(row)], strict=True))


# --- positions and mask


@given(st.lists(st.lists(st.sampled_from([EOS, 1, 2]), min_size=7, max_size=7), min_size=1, max_size=3))
def test_positions_and_mask_are_those_of_a_loop(rows: list[list[int]]) -> None:
    ids = torch.tensor(rows)
    found = find_documents(ids, eos_id=EOS)
    for row, start, stop in pieces(ids):
        for t in range(start, stop):
            assert found.positions[row, t] == t - start
            assert found.mask[row, 0, t].nonzero().flatten().tolist() == list(range(start, t + 1))


def test_an_end_token_opens_a_document_rather_than_closing_one() -> None:
    found = find_documents(torch.tensor([[7, EOS, 8, 9, EOS]]), eos_id=EOS)
    assert found.positions.tolist() == [[0, 0, 1, 2, 0]]
    assert found.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 1],
    ]  # fmt: skip


# --- by gradient


def leaks(model: GPT, ids: Tensor, documents: Documents | None, *, precision: torch.dtype = torch.float32) -> list[str]:
    """Every position whose logits depend on what they should not, or do not on what they should."""
    embedded: list[Tensor] = []
    handle = model.token_embedding.register_forward_hook(lambda _module, _inputs, output: embedded.append(output))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        logits = model(ids, documents=documents).float()
    handle.remove()
    weights = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(3))
    wrong = []
    for row, start, stop in pieces(ids):
        for t in range(start, stop):
            loss = (logits[row, t] * weights).sum()
            (gradient,) = torch.autograd.grad(loss, embedded[0], retain_graph=True)
            influence = gradient.abs().sum(-1)  # [B T]
            expected = torch.zeros_like(influence, dtype=torch.bool)
            expected[row, start : t + 1] = True
            if not torch.equal(influence > 0, expected):  # exactly 0 elsewhere
                wrong.append(f"row {row}, position {t}")
    return wrong


def test_logits_depend_on_every_earlier_token_of_their_document_and_on_nothing_else(
    any_config: ModelConfig, make_model: MakeModel, packed: Tensor
) -> None:
    model, documents = make_model(any_config), find_documents(packed, eos_id=EOS)
    assert leaks(model, packed, documents) == []
    assert leaks(model, packed, documents, precision=torch.bfloat16) == []


def test_dropout_leaks_nothing(any_config: ModelConfig, make_model: MakeModel, packed: Tensor) -> None:
    model = make_model(replace(any_config, dropout=0.1)).train()
    documents = find_documents(packed, eos_id=EOS)
    logits = model(packed, documents=documents)
    assert not torch.equal(logits, model(packed, documents=documents))  # it is on
    other = packed.clone()
    other[0, 6:9], other[1, 1:7] = 3, 4  # the texts of two documents
    changed = []
    for ids in (packed, other):
        torch.manual_seed(0)
        changed.append(model(ids, documents=documents))
    same = (changed[0] == changed[1]).all(-1)
    assert same[0].tolist() == [t not in (6, 7, 8) for t in range(16)]
    assert same[1].tolist() == [t not in range(1, 7) for t in range(16)]
    assert same[2].all()


def test_a_window_without_the_mask_leaks(any_config: ModelConfig, make_model: MakeModel, packed: Tensor) -> None:
    found = leaks(make_model(any_config), packed, None)
    # All but the first document of each window.
    assert found == [
        f"row {row}, position {t}" for row, start, stop in pieces(packed) if start for t in range(start, stop)
    ]


# --- each document alone


def logits_alone(model: GPT, ids: Tensor) -> Tensor:
    logits = torch.empty(*ids.shape, model.vocab_size)
    for row, start, stop in pieces(ids):
        logits[row, start:stop] = model(ids[row : row + 1, start:stop])[0]
    return logits


@torch.no_grad()
def test_a_packed_window_gives_the_logits_of_each_document_alone(
    any_config: ModelConfig, make_model: MakeModel, packed: Tensor
) -> None:
    model, documents = make_model(any_config), find_documents(packed, eos_id=EOS)
    alone = logits_alone(model, packed)
    torch.testing.assert_close(model(packed, documents=documents), alone)
    # Partners: without the mask, or without the positions (rotary ones depend on distance only, and may go on).
    with pytest.raises(AssertionError):
        torch.testing.assert_close(model(packed), alone)
    whole = torch.ones(len(packed), 1, 16, 16, dtype=torch.bool).tril()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(model(packed, documents=replace(documents, mask=whole)), alone)
    in_a_row = replace(documents, positions=torch.arange(16).expand_as(packed))
    if any_config.position == "learned":
        with pytest.raises(AssertionError):
            torch.testing.assert_close(model(packed, documents=in_a_row), alone)
    else:
        torch.testing.assert_close(model(packed, documents=in_a_row), alone)


@torch.no_grad()
def test_generation_reads_a_document_as_training_does(
    any_config: ModelConfig, make_model: MakeModel, packed: Tensor
) -> None:
    """A prompt that starts with the end token, fed token by token, has the logits of its place in a packed window."""
    model, (row, start, stop) = make_model(any_config), (1, 7, 16)
    cache = KVCache(model.config, n_sequences=1, n_positions=16)
    ids = packed[row : row + 1, start:stop]
    fed = torch.cat([model(one, cache=cache) for one in ids.split(1, dim=1)], dim=1)
    together = model(packed, documents=find_documents(packed, eos_id=EOS))[row, start:stop]
    torch.testing.assert_close(fed[0], together)
    without_start = model(ids[:, 1:])[0]  # a prompt that does not start with it is read otherwise
    assert not torch.allclose(without_start, together[1:], atol=1e-3)


@torch.no_grad()
def test_a_window_of_one_document_is_read_as_ever(
    any_config: ModelConfig, make_model: MakeModel, token_ids: Tensor
) -> None:
    model, ids = make_model(any_config), token_ids.clamp(max=EOS - 1)
    torch.testing.assert_close(model(ids, documents=find_documents(ids, eos_id=EOS)), model(ids))


def test_a_cache_holds_one_document(tiny_config: ModelConfig, make_model: MakeModel, packed: Tensor) -> None:
    cache = KVCache(tiny_config, n_sequences=len(packed), n_positions=16)
    with pytest.raises(AssertionError, match="one document"):
        make_model(tiny_config)(packed, cache=cache, documents=find_documents(packed, eos_id=EOS))
