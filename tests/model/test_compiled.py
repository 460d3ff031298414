"""The compiled model is the eager one. In a process of its own: Dynamo cannot trace the shape checks of the tests."""

import os
import subprocess
import sys

import pytest

from smalllm import runtime

PROGRAM = """
import dataclasses, torch, torch.nn.functional as F
from smalllm.config import ModelConfig
from smalllm.model.documents import find_documents
from smalllm.model.gpt import GPT
from smalllm.model.init import init_weights

torch.set_num_threads(1)
base = ModelConfig(n_layers=2, n_heads=4, d_model=32, context_length=16)
gpt2 = dataclasses.replace(base, position="learned", bias=True)
llama = dataclasses.replace(base, norm="rmsnorm", mlp="swiglu", qk_norm=True, n_kv_heads=2, tie_embeddings=False)
token_ids = torch.randint(61, (4, 16), generator=torch.Generator().manual_seed(1))

def loss_and_gradients(model, function):
    model.zero_grad()
    loss = function(model)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]

def loss_of(model):
    return F.cross_entropy(model(token_ids).flatten(0, 1), token_ids.flip(0).flatten())

def masked_loss_of(model):  # about four documents in a window
    logits = model(token_ids, documents=find_documents(token_ids // 16, eos_id=0))
    return F.cross_entropy(logits.flatten(0, 1), token_ids.flip(0).flatten())

for config, loss_of in ((gpt2, loss_of), (llama, loss_of), (gpt2, masked_loss_of)):
    model = GPT(config, vocab_size=61)
    init_weights(model, seed=0)
    eager = loss_and_gradients(model, loss_of)
    compiled = loss_and_gradients(model, torch.compile(loss_of, dynamic=False, fullgraph=True))
    torch.testing.assert_close(compiled, eager)
    with torch.no_grad():
        model.norm.weight.add_(0.01)
    changed = loss_and_gradients(model, loss_of)
    try:
        torch.testing.assert_close(compiled, changed)
    except AssertionError:
        print("equal, and a change is seen")

# With dropout the compiled model computes what it drops from keys; eager, where it is told that it is compiled, too.
model = GPT(dataclasses.replace(llama, mlp="gelu", dropout=0.2), vocab_size=61).train()
init_weights(model, seed=0)
def loss_of(model):
    return F.cross_entropy(model(token_ids).flatten(0, 1), token_ids.flip(0).flatten())
def dropped(function, seed):
    torch.manual_seed(seed)
    return loss_and_gradients(model, function)
compiled = torch.compile(loss_of, dynamic=False, fullgraph=True)
plain, really = dropped(loss_of, 1), torch.compiler.is_compiling
torch.compiler.is_compiling = lambda: True
eager = dropped(loss_of, 1)
torch.compiler.is_compiling = really
torch.testing.assert_close(dropped(compiled, 1), eager)
for other in (dropped(compiled, 2), plain):
    assert not torch.allclose(other[1], eager[1])
model.recompute_every = 1
torch.testing.assert_close(dropped(torch.compile(loss_of, dynamic=False, fullgraph=True), 1), eager)
print("dropped alike")

# In BF16 the compiled attention is our own: what the mask hides has no influence, to the last bit.
model = GPT(llama, vocab_size=61)
init_weights(model, seed=0)
def logits_of(embedded, is_masked):
    model.token_embedding.forward = lambda ids: embedded
    documents = find_documents(token_ids // 16, eos_id=0) if is_masked else None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(token_ids, documents=documents).float()
embedded = F.embedding(token_ids, model.token_embedding.weight).detach().requires_grad_()
starts = (token_ids[0] // 16 == 0).nonzero().flatten().tolist()
for is_masked, function in ((True, torch.compile(logits_of, dynamic=False)), (False, logits_of)):
    logits = function(embedded, is_masked)
    (gradient,) = torch.autograd.grad((logits[0, starts[1] :] ** 2).sum(), embedded)
    influence = gradient.abs().sum(-1)
    assert 0 < starts[1] < 15 and (influence[0, starts[1] :] > 0).all() and (influence[1:] == 0).all()
    print("hidden" if (influence[0, : starts[1]] == 0).all() else "seen")
"""


@pytest.mark.slow
def test_compiled_loss_and_gradients_equal_eager_ones() -> None:
    missing = runtime.missing_compiler("cpu")
    if missing:
        pytest.skip(f"torch.compile cannot run here: {missing}")
    environment = {**os.environ, "JAXTYPING_DISABLE": "1"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal, and a change is seen") == 3
    assert "dropped alike" in done.stdout
    assert done.stdout.split()[-2:] == ["hidden", "seen"]
