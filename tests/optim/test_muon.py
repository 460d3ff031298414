"""Muon: PyTorch's updates, whatever is done together, and matrices that come out orthogonal."""

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Muon as TorchMuon

from smalllm.optim import muon
from smalllm.optim.muon import Muon, orthogonalize

SHAPES = [(8, 8), (8, 24), (24, 8), (8, 8), (8, 24), (16, 16)]


def matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def trained(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, *, seed: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [p.detach() for p in parameters]


def ours(dtype: torch.dtype = torch.bfloat16, **changes: float) -> list[Tensor]:
    parameters = matrices()
    group = {"params": parameters, "weight_decay": 0.1, **changes}
    return trained(parameters, Muon([group], lr=0.05, momentum=0.95, dtype=dtype))


def far(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def test_the_updates_are_those_of_pytorch() -> None:
    parameters = matrices()
    theirs = trained(parameters, TorchMuon(parameters, lr=0.05, weight_decay=0.1, momentum=0.95))
    # Three updates of 0.05; BF16 has 8 bits of mantissa, and five iterations add up its errors.
    assert far(ours(), theirs) < 0.01
    assert far(ours(torch.float32), theirs) < 0.01
    assert far(ours(lr=0.08), theirs) > 0.02  # the partners: another rate, no decay, other gradients
    assert far(ours(weight_decay=2.0), theirs) > 0.02
    parameters = matrices()
    other = trained(parameters, Muon([{"params": parameters}], lr=0.05, momentum=0.95, dtype=torch.float32), seed=3)
    assert far(other, theirs) > 0.02


def test_together_or_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    together = ours(torch.float32)
    monkeypatch.setattr(muon, "_MOST_NUMBERS", 1)
    for one, other in zip(ours(torch.float32), together, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", [(3, 12, 12), (2, 8, 20), (2, 20, 8)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int, int]) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    found = orthogonalize(given)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5 and values.max() < 1.3
    assert torch.linalg.svdvals(given / given.norm(dim=(-2, -1), keepdim=True)).min() < 0.5  # there was something to do
    left, _, right = torch.linalg.svd(given, full_matrices=False)
    cosine = (found * (left @ right)).sum((-2, -1)) / found.norm(dim=(-2, -1)) / (left @ right).norm(dim=(-2, -1))
    assert cosine.min() > 0.95


def test_a_matrix_without_gradient_stays() -> None:
    parameters = matrices()
    optimizer = Muon([{"params": parameters}], lr=0.05, momentum=0.95, dtype=torch.float32)
    before = [p.detach().clone() for p in parameters]
    parameters[0].grad = torch.ones_like(parameters[0])
    optimizer.step()
    assert not torch.equal(parameters[0], before[0]) and torch.equal(parameters[1], before[1])
    assert parameters[1] not in optimizer.state
