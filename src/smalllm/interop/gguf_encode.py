"""Token ids from a GGUF file's lists, without llama.cpp: what it makes of a text, by its own algorithms.

Three differences to smalllm's ids are in no file's power:
- "llama" reads a U+2581 in a text as a space; where smalllm's tokenizer loses nothing, it has tokens of its own;
- "llama" reads the spelling of a special token as that token where pieces can be merged to it, as "</s" and ">"; no
  vocabulary that smalllm trains has such pieces;
- characters are not composed (NFC) where the tokenizer of an imported model does so first.

Source: llama.cpp `src/llama-vocab.cpp`, of llama-cpp-python 0.3.36.
"""

import heapq
import json
import unicodedata
from collections.abc import Callable, Iterable

from smalllm.interop.gguf_tokenizer import (
    BYTE,
    CONTROL,
    IGNORES_MERGES,
    NO_MERGE,
    PRE_TOKENIZERS,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    GGUFTokenizer,
)
from smalllm.tokenizers.text_tokenizer import MARKER, TextTokenizer

Encode = Callable[[str], list[int]]


def make_encoder(lists: GGUFTokenizer) -> Encode:
    """The function from a text to ids that the lists describe; special tokens spelled in a text are text."""
    return _merging_encoder(lists) if lists.model == "gpt2" else _scoring_encoder(lists)


def make_cases(texts: Iterable[str], tokenizer: TextTokenizer, lists: GGUFTokenizer) -> list[tuple[str, list[int]]]:
    """Texts as they are given to llama.cpp, and the ids it must make of them: smalllm's, the differences aside.

    Args:
        texts: any.
        tokenizer: ours.
        lists: the same, for GGUF.
    """
    misread = find_misread(lists)
    composes = lists.model == "gpt2" and not tokenizer.is_lossless
    cases = []
    for text in texts:
        if any(word in text for word in misread):
            continue
        given = unicodedata.normalize("NFC", text) if composes else text
        cases.append((given, tokenizer.encode(given.replace(MARKER, " ") if lists.model == "llama" else given)))
    return cases


def find_misread(lists: GGUFTokenizer) -> list[str]:
    """Spellings of special tokens that llama.cpp reads as those tokens."""
    if lists.model == "gpt2":
        return []
    encode = make_encoder(lists)
    reserved = [i for i, type in enumerate(lists.types) if type in (CONTROL, UNKNOWN, UNUSED, BYTE)]
    return [lists.tokens[i] for i in reserved if encode(lists.tokens[i]) == [i]]


def _merging_encoder(lists: GGUFTokenizer) -> Encode:
    from tokenizers import AddedToken, Tokenizer, models

    pairs = [merge.partition(" ") for merge in lists.merges if merge != NO_MERGE]
    merges = [(left, right) for left, _, right in pairs]
    vocabulary = {token: i for i, token in enumerate(lists.tokens)}
    model = models.BPE(vocabulary, merges, ignore_merges=lists.pre in IGNORES_MERGES)
    spec = json.loads(Tokenizer(model).to_str())
    steps = [{"trim_offsets": True, **step} for step in PRE_TOKENIZERS[lists.pre]]
    backend = Tokenizer.from_str(json.dumps({**spec, "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}))
    found = [token for token, type in zip(lists.tokens, lists.types, strict=True) if type == USER_DEFINED]
    backend.add_tokens([AddedToken(token, normalized=False) for token in found])

    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def _scoring_encoder(lists: GGUFTokenizer) -> Encode:
    ids = {token: i for i, token in enumerate(lists.tokens)}
    whole = [token for token, type in zip(lists.tokens, lists.types, strict=True) if type == USER_DEFINED]
    whole.sort(key=lambda token: -len(token.encode()))

    def encode(text: str) -> list[int]:
        found, is_after_token = [], True
        for part, is_token in _cut(text, whole):
            if is_token:
                found.append(ids[part])
            else:
                space = " " if lists.add_space_prefix and is_after_token else ""
                found += _merge((space + part).replace(" ", MARKER), ids, lists.scores)
            is_after_token = is_token
        return found

    return encode


def _cut(text: str, whole: list[str]) -> list[tuple[str, bool]]:
    """The parts of a text, and whether each is a token of `whole`; the first of these cuts first."""
    parts = [(text, False)] if text else []
    for token in whole:
        cut: list[tuple[str, bool]] = []
        for part, is_token in parts:
            for i, piece in enumerate([part] if is_token else part.split(token)):
                cut += [(token, True)] if i else []
                cut += [(piece, is_token)] if piece else []
        parts = cut
    return parts


def _merge(text: str, ids: dict[str, int], scores: tuple[float, ...]) -> list[int]:
    """Pairs become pieces, best score first and then leftmost; a character that is no piece becomes its bytes."""
    parts: list[str] = list(text)
    before, after = [i - 1 for i in range(len(parts))], [i + 1 for i in range(len(parts))]
    queue: list[tuple[float, int, int, str]] = []
    offered = [(i, i + 1) for i in range(len(parts) - 1)]
    while offered or queue:
        for left, right in offered:
            if left >= 0 and right < len(parts) and (piece := parts[left] + parts[right]) in ids:
                heapq.heappush(queue, (-scores[ids[piece]], left, right, piece))
        if not queue:
            break
        offered = []
        _, left, right, piece = heapq.heappop(queue)
        if not parts[left] or not parts[right] or parts[left] + parts[right] != piece:
            continue  # one of them is part of something else by now
        parts[left], parts[right] = piece, ""
        after[left] = after[right]
        if after[left] < len(parts):
            before[after[left]] = left
        offered = [(before[left], left), (left, after[left])]
    found = []
    for part in filter(None, parts):
        found += [ids[part]] if part in ids else [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
    return found
