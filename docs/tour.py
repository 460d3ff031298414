# The source of tour.ipynb, and a program of its own; scripts/make_tour.py runs it and writes the notebook.

# %% [markdown]
# # A tour of smalllm
#
# From nothing to a language model that tells stories, in Python, in about half a minute on two
# cores: data, training, evaluation, a look inside, writing, export, and two runs side by side.
# It needs no network and no data. All files go to the folder `tour`, which may be deleted.
#
# The model is tiny and trains for seconds, so what it shows is small: the point is where
# everything is and how to read it. `smalllm quickstart` does the same with three minutes, and
# well.

# %%
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import smalllm

FOLDER = Path("tour")


@dataclass
class Picture:
    """A PNG file as a notebook shows it."""

    path: Path

    def _repr_png_(self):
        return self.path.read_bytes()


# %% [markdown]
# ## A configuration
#
# A run is a recipe with changes. `smalllm.recipe_names()` lists the recipes; a change is given by
# the name that it also has on the command line (`--train.max_steps 150`), and a wrong name or
# value is refused at once, with the nearest right one.

# %%
config = smalllm.override(
    smalllm.load_recipe("stories"),
    {
        "data.stories": 4_000,
        "data.path": str(FOLDER / "data"),
        "tokenizer.vocab_size": 1_024,
        "model.d_model": 128,
        "model.d_ff": 256,
        "train.max_steps": 150,
        "train.tokens_per_step": 2_048,
        "train.precision": "fp32",
        "train.compile": False,  # compiling takes longer than this training
        "eval.every": 50,
    },
)
try:
    smalllm.override(config, {"optim.lrr": 3e-4})
except smalllm.errors.ConfigError as error:
    print(error)

# %% [markdown]
# ## Data
#
# The stories come from a grammar that is built in. Its randomness is known exactly, so there is a
# floor that no model can get below: a yardstick that real text does not have. `prepare` writes the
# text as token ids, with a tokenizer trained on it; 1 % of the stories are held out.

# %%
smalllm.prepare(config)
data = smalllm.inspect(config.data.path)
for name, split in data["splits"].items():
    print(f"{name:>5}: {split['documents']:>5,} stories, {split['tokens']:>7,} tokens, {split['text_bytes']:>9,} bytes")

# %% [markdown]
# ## Training
#
# One call. It leaves a run: a folder with the checkpoints, every number that was measured on the
# way, samples, and a page, `report.html`. Interrupted, it goes on with `resume=True`, bit for bit
# as if nothing had happened.

# %%
result = smalllm.train(config, out=FOLDER / "muon")
print(f"{result['parameters']:,} parameters, {result['tokens']:,} tokens seen")
Picture(FOLDER / "muon/plots/loss.png")

# %% [markdown]
# The curve falls steeply while the model learns which words are common, then slowly, while it
# learns what depends on what. The dashed lines are the two ends of the scale: what knowing only the
# frequency of each token would give, and the floor.
#
# ## Evaluation
#
# Bits per byte say how many bits the model needs to spell out text that it has never seen, per byte
# of it. They do not depend on the tokenizer, so any two models compare on the same text; 8 bits is
# no knowledge at all. What each number means: [metrics](metrics.md).

# %%
loss = smalllm.evaluate(FOLDER / "muon")["results"]["loss"]
print(f"unigram {loss['unigram']['bits_per_byte']:.3f} bits per byte")
print(f"model   {loss['bits_per_byte']:.3f} ± {loss['bits_per_byte_stderr']:.3f}")
print(f"floor   {loss['floor']['bits_per_byte']:.3f}")

# %% [markdown]
# Two breakdowns. By position: with more text before it a token is easier to guess, as names and
# things come back. By frequency: tokens that were rare in the training text are hard; whether that
# is the model's fault only the floor could say.

# %%
for title, bins in (("tokens before it", loss["by_position"]), ("seen in training", loss["by_frequency"])):
    print(f"{title}: nats per token")
    for one in bins:
        print(f"  {one['from']:>7,} - {one['to']:>7,}   {one['loss']:.2f}")

# %% [markdown]
# ## A look inside
#
# `explain` reads a text with the model and writes a page, `explain.html`, with pictures and numbers.
# First the surprise of each token in bits. A name at its first appearance must cost something;
# later a good model has it for nearly nothing.

# %%
STORY = (
    "Once upon a time, there was a lively boy named Chris. He lived with his grandfather in Appleby. "
    "His grandfather had given him a soft boat, and Chris loved the boat."
)
inside = smalllm.explain(FOLDER / "muon", STORY)
print(f"{inside.mean_bits:.2f} bits per token")
Picture(FOLDER / "muon/explain/surprise.png")

# %% [markdown]
# The logit lens asks every layer for an answer, as if it were the last. The lowest row is the
# embedding; green frames are right answers. Colours are uncertainty.

# %%
Picture(FOLDER / "muon/explain/lens.png")

# %% [markdown]
# Heads: an induction head looks for what followed the same token earlier, and so copies. On random
# tokens that come twice, even attention would have the score in the first line; how far back each
# head looks on stories is in the table. So short a training hardly makes induction heads; more on
# them is in [inside a transformer](inside-a-transformer.md).

# %%
print(f"induction, even attention: {inside.repeated.copy_chance:.3f}")
for head in inside.heads:
    print(f"layer {head.layer} head {head.head}: induction {head.induction:.3f}, looks {head.distance:4.1f} tokens back")
Picture(FOLDER / "muon/explain/distance.png")

# %% [markdown]
# ## Writing
#
# Each call continues a text, always alike for the same seed. `preset` chooses how tokens are drawn:
# greedily, or with some luck.

# %%
texts = smalllm.generate(FOLDER / "muon", "Once upon a time", n=2, preset="nucleus", max_tokens=70, seed=0)
for text in texts:
    print(text.text.strip(), end="\n\n")

# %% [markdown]
# The model itself is a PyTorch module: token ids in, logits out.

# %%
run = smalllm.load_run(FOLDER / "muon")
token_ids = run.encode("Once upon a")
probabilities = run.model(token_ids)[0, -1].softmax(-1)
for probability, token_id in zip(*(top.tolist() for top in probabilities.topk(3)), strict=True):
    print(f"{probability:6.1%}  {run.tokenizer.decode([token_id])!r}")

# %% [markdown]
# ## Out, and back
#
# The export is a folder for Hugging Face transformers, of a stock class, and proves itself before
# it says so. Here it is read back with transformers alone, and both are asked the same.

# %%
smalllm.export(FOLDER / "muon", out=FOLDER / "hf")
print(*sorted(path.name for path in (FOLDER / "hf").iterdir()))
if importlib.util.find_spec("transformers"):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(FOLDER / "hf")
    difference = (theirs(token_ids).logits - run.model(token_ids)).abs().max().item()
    print(f"{type(theirs).__name__}: logits differ by less than {1e-4 if difference < 1e-4 else difference}")

# %% [markdown]
# ## Two runs
#
# The same with AdamW in place of Muon, and all else equal. Two runs and one text: their difference
# in bits per byte is the answer. One run for each setting shows no more than the luck of its seed
# lets it; for a claim, repeat with other values of `train.seed`.

# %%
other = smalllm.train(smalllm.override(config, {"optim.kind": "adamw"}), out=FOLDER / "adamw")
for name, one in (("Muon", result), ("AdamW", other)):
    print(f"{name:<6} {one['val']['bits_per_byte']:.3f} bits per byte, {one['floor']['ratio']:.2f} times the floor")
smalllm.report(FOLDER / "muon", FOLDER / "adamw", out=FOLDER / "comparison")
Picture(FOLDER / "comparison/plots/bits_per_byte.png")

# %% [markdown]
# `tour/comparison/report.html` shows both runs and the fields in which they differ.
#
# ## From here
#
# - Your own text: `"data.source": "files", "data.files": ["book.txt"]`, or any recipe;
#   [data sources](data-sources.md).
# - What a run will cost, before it starts: `smalllm.plan`, [planning](planning.md).
# - A learning rate for it: `smalllm.find_lr`, [before a long run](find-lr.md).
# - Questions to compare models of others with: `smalllm.evaluate(run, tasks=["hellaswag"])`,
#   [metrics and tasks](metrics.md).
