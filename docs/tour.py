# The source of tour.ipynb, and a program of its own; scripts/make_tour.py runs it and writes the notebook.

# %% [markdown]
# # A tour of smalllm
#
# From nothing to a language model that tells stories, in Python, in about a minute on two cores:
# data, training, evaluation, a look inside, writing, export, and two runs side by side. It needs no
# network and no data. All files go to the folder `tour`, which may be deleted.
#
# The model is tiny and trains for seconds, so it is no good yet: the point is where everything is
# and how to read it. `smalllm quickstart` takes three minutes, and its stories hold together.

# %%
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch

import smalllm
from smalllm.generation.sampling import SamplingConfig

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
        "model.d_model": 128,
        "model.d_ff": 256,
        "train.max_steps": 150,
        "train.tokens_per_step": 2_048,
        "train.compile": False,  # compiling takes longer than this training
        "eval.every": 25,
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
# Two breakdowns. By position: the first tokens cost little, since stories begin alike; then come the
# choices; late tokens cost less again, because names and things come back, and a model that uses its
# context knows them. By frequency: what was rare in the training text is hard.

# %%
for title, bins in (("tokens before it", loss["by_position"]), ("seen in training", loss["by_frequency"])):
    print(f"{title}: nats per token")
    for one in bins:
        print(f"  {one['from']:>7,} - {one['to']:>7,}   {one['loss']:.2f}")

# %% [markdown]
# ## A look inside
#
# `explain` reads a text with the model and writes a page, `explain.html`, with pictures and numbers.
# First the surprise of each token in bits. A name must cost something where it comes first; where it
# comes again (Chris, boat), a good model has it for nearly nothing. This one has not learned that.

# %%
STORY = (
    "Once upon a time, there was a lively boy named Chris. He lived with his grandfather in Appleby. "
    "His grandfather had given him a soft boat, and Chris loved the boat."
)
inside = smalllm.explain(FOLDER / "muon", STORY)
print(f"{inside.mean_bits:.2f} bits per token")
Picture(FOLDER / "muon/explain/surprise.png")

# %% [markdown]
# The logit lens asks every layer for an answer, as if it were the last. Below stands what the model
# reads; in bold, the answers that are right: the token that follows.

# %%
Picture(FOLDER / "muon/explain/logit_lens.png")

# %% [markdown]
# An induction head looks for what followed the same token earlier, and so copies. The score is
# measured on random tokens that come twice; even attention would have that of the first line. So
# short a training makes no such heads; [inside a transformer](inside-a-transformer.md) shows some.

# %%
print(f"induction, even attention: {inside.repeated.copy_chance:.3f}")
for head in inside.heads:
    where = f"layer {head.layer} head {head.head}"
    print(f"{where}: induction {head.induction:.3f}, looks {head.distance:4.1f} tokens back")
Picture(FOLDER / "muon/explain/attention_distance.png")

# %% [markdown]
# ## Writing
#
# A text is continued by drawing one token after the other, always alike for the same seed. How they
# are drawn: [generation](generation.md).

# %%
sampling = SamplingConfig(temperature=0.8, top_p=0.9, max_tokens=70, seed=0)
texts = smalllm.generate(FOLDER / "muon", "Once upon a time", n=2, sampling=sampling)
for text in texts:
    print(f"Once upon a time{text.text}", end="\n\n")

# %% [markdown]
# The model itself is a PyTorch module: token ids in, logits out.

# %%
run = smalllm.load_run(FOLDER / "muon")
token_ids = torch.tensor([run.tokenizer.encode("Once upon a")], device=run.device)
probabilities = run.model(token_ids)[0, -1].softmax(-1)
for probability, token_id in zip(*(top.tolist() for top in probabilities.topk(3)), strict=True):
    print(f"{probability:6.1%}  {run.tokenizer.decode([token_id])!r}")

# %% [markdown]
# ## Out, and back
#
# The export is a folder for Hugging Face transformers, of a stock class, and proves itself before
# it says so. Here it is read back with transformers alone, and both are asked the same.

# %%
if importlib.util.find_spec("transformers"):
    from transformers import AutoModelForCausalLM

    smalllm.export(FOLDER / "muon", out=FOLDER / "hf")
    print(*sorted(path.name for path in (FOLDER / "hf").iterdir()))
    theirs = AutoModelForCausalLM.from_pretrained(FOLDER / "hf").to(run.device)
    difference = (theirs(token_ids).logits - run.model(token_ids)).abs().max().item()
    print(f"{type(theirs).__name__}: logits differ by less than {1e-4 if difference < 1e-4 else difference}")
else:
    print("left out: pip install 'smalllm[hf]'")

# %% [markdown]
# ## Two runs
#
# The same with AdamW in place of Muon, at a rate that suits it. Both are measured on the same text,
# so bits per byte compare. One run for each setting shows no more than the luck of its seed lets it;
# for a claim, repeat with other values of `train.seed`.

# %%
with_adamw = smalllm.override(config, {"optim.kind": "adamw", "optim.lr": 0.005})
other = smalllm.train(with_adamw, out=FOLDER / "adamw")
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
