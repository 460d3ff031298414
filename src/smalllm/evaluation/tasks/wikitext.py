r"""WikiText-2, whole articles: perplexity per word and per byte of the raw text.

The model reads the text without its tokenizer's spaces (`it 's @-@` becomes `it's-`); words and bytes are those of the
original, so that any tokenizer compares. Each article is scored from its own start, in windows of the context length.

    word_perplexity  exp(nats / words)      words: pieces between white space, as re.split(r"\s+") cuts
    byte_perplexity  exp(nats / bytes)
    bits_per_byte    nats / (ln 2 * bytes)  with its standard error over articles

Source: Merity et al. 2016; lm-evaluation-harness, `wikitext`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from smalllm.evaluation.details import ratio_error
from smalllm.evaluation.likelihood import Likelihood
from smalllm.evaluation.questions import Measures, Task
from smalllm.evaluation.records import Record, text_of
from smalllm.evaluation.requests import Encoder, Request

_JOINED = (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")
_PUNCTUATION = tuple((f" {mark} ", f"{mark} ") for mark in ":;.!?,")
_BRACKETS = (
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"), (r"\[\s*([^\]]*?)\s*\]", r"[\1]"), (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'), (r"'\s*([^']*?)\s*'", r"'\1'"),
)  # fmt: skip
_REST = (
    ("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}"), (" \n", "\n"),
    ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """An article.

    Attributes:
        text: as the model reads it.
        n_words: of the original.
        n_bytes: UTF-8 length of the original.
    """

    text: str
    n_words: int
    n_bytes: int


def read(record: Record, where: str) -> Page:
    """A record with `page`, an article of the raw set."""
    page = text_of(record, "page", where)
    return Page(detokenize(page), len(re.split(r"\s+", page)), len(page.encode()))


def detokenize(text: str) -> str:
    """The text without the spaces that WikiText's tokenizer put in."""
    text = re.sub(r"/' [0-9]/", r"/'[0-9]/", text.replace("s '", "s'"))
    for old, new in (*_JOINED, *_PUNCTUATION):
        text = text.replace(old, new)
    for pattern, new in _BRACKETS:
        text = re.sub(pattern, new, text)
    for old, new in _REST:
        text = text.replace(old, new)
    return text


def encode(page: Page, encoder: Encoder) -> list[Request]:
    """Windows over the whole article."""
    return encoder.rolling(page.text)


def measure(pages: Sequence[Page], found: Sequence[Sequence[Likelihood]], vocab_size: int) -> Measures:
    """Perplexity per word and byte; `chance` is bits per byte of a uniform guess among all tokens."""
    nats = [-sum(one.log_prob for one in windows) for windows in found]
    n_tokens = sum(one.n_tokens for windows in found for one in windows)
    n_bytes = [page.n_bytes for page in pages]
    total, total_bytes = math.fsum(nats), max(1, sum(n_bytes))
    error = ratio_error(nats, n_bytes)
    return {
        "n": len(pages),
        "word_perplexity": math.exp(min(total / max(1, sum(page.n_words for page in pages)), 700.0)),
        "byte_perplexity": math.exp(min(total / total_bytes, 700.0)),
        "bits_per_byte": total / total_bytes / math.log(2),
        "bits_per_byte_stderr": None if error is None else error / math.log(2),
        "chance": n_tokens * math.log2(vocab_size) / total_bytes,
    }


TASK = Task(
    name="wikitext",
    title="WikiText-2, whole articles",
    address="EleutherAI/wikitext_document_level",
    files=("wikitext-2-raw-v1/*test*.parquet", "*wikitext-2-raw-v1*test*.parquet", "*test*.jsonl"),
    read=read,
    encode=encode,
    measure=measure,
)
