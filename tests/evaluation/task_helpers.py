"""A few questions of each task, made up here, and a slow, plain way to score them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from smalllm.model.gpt import GPT
from smalllm.protocols import Tokenizer

HELLASWAG = [
    {
        "activity_label": "Baking bread", "ctx_a": "A man puts flour into a bowl.", "ctx_b": "he",
        "ctx": "A man puts flour into a bowl. he", "label": 1,
        "endings": ["sings.", "adds water and mixes it.", "adds water [substeps] and  flies away.", "eats the bowl."],
    },
    {
        "activity_label": "Home and Garden", "ctx_a": "[header] How to plant a tree [title] Dig a hole. ", "ctx_b": "",
        "ctx": "[header] How to plant a tree [title] Dig a hole. ", "label": "3",
        "endings": ["[step] Été.", "Dig.", "Dig a hole, then another one, then a third one.", "Put the tree into it."],
    },
    {
        "activity_label": "Running", "ctx_a": "A woman runs", "ctx_b": "the woman", "ctx": "A woman runs the woman",
        "label": 0, "endings": [", then stops.", "runs", "runs and runs", "is a tree."],
    },
]  # fmt: skip
LAMBADA = [
    {"text": "The cat saw the dog. The dog saw the cat"},
    {"text": "She said: \u201cgo home\u201d, and he went\nhome"},
    {"text": "One two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"},
]
BLIMP = [
    {"sentence_good": "The cats run.", "sentence_bad": "The cats runs.", "UID": "agreement"},
    {"sentence_good": "A dog runs home.", "sentence_bad": "A dog run home.", "UID": "agreement"},
    {"sentence_good": "Who did he see?", "sentence_bad": "Who did he see her?", "UID": "island"},
    {"sentence_good": "Here is the same.", "sentence_bad": "Here is the same.", "UID": "island"},
]
ARC = [
    {
        "question": "What melts?", "answerKey": "B",
        "choices": {"text": ["Stone", "Ice in the sun", "Air"], "label": ["A", "B", "C"]},
    },
    {
        "question": {
            "stem": "What falls?",
            "choices": [{"text": t, "label": str(i)} for i, t in enumerate(["Rain", "Light", "Time", "A smell"], 1)],
        },
        "answerKey": "1",
    },
]  # fmt: skip
PIQA = [
    {"goal": "Open a door", "sol1": "push the wall", "sol2": "turn the handle", "label": 1},
    {"goal": "Boil water ", "sol1": "heat it", "sol2": "heat the cup and then wait", "label": 0},
]
WIKITEXT = [
    {"page": ' = A Page = \n \n The dog \'s tail @-@ end ( long ) was 1 @,@ 0 mm . It said " oh " ; then N more . \n'},
    {"page": "Two words here and many more words here and here , so that it takes a window or two of a small model ."},
]
RECORDS: dict[str, list[dict[str, Any]]] = {
    "hellaswag": HELLASWAG, "hellaswag_nanogpt": HELLASWAG, "lambada": LAMBADA, "blimp": BLIMP, "arc_easy": ARC,
    "piqa": PIQA, "wikitext": WIKITEXT,
}  # fmt: skip


def write_records(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@torch.no_grad()
def plain_score(
    model: GPT, tokenizer: Tokenizer, context: str, continuation: str, *, opening: tuple[int, ...] = ()
) -> tuple[float, bool]:
    """What lm-evaluation-harness does with one continuation, said again: one pass, the whole row of logits."""
    n_spaces = len(context) - len(context.rstrip())
    if n_spaces:
        context, continuation = context[:-n_spaces], context[-n_spaces:] + continuation
    if context:
        whole, before = tokenizer.encode(context + continuation), tokenizer.encode(context)
        before, after = [*opening, *before], whole[len(before) :]
    else:
        before, after = [tokenizer.eos_id], tokenizer.encode(continuation)
    inputs = (before + after)[-(model.config.context_length + 1) :][:-1]
    log_probs = model(torch.tensor([inputs])).float().log_softmax(-1)[0, -len(after) :]
    chosen = log_probs.gather(-1, torch.tensor(after)[:, None])[:, 0]
    return float(chosen.double().sum()), log_probs.argmax(-1).tolist() == after
