"""Updates that are refused: what is left alone, what goes on, and when the run goes back to a checkpoint."""

import math
import signal
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_loop import CONFIG, CONTEXT, LOSS, VOCAB, WINDOWS, Sitting, with_eval, with_train
from torch import Tensor, nn

from smalllm.checkpoint import TrainState
from smalllm.errors import NonFiniteError
from smalllm.optim.optimizers import optimizer_tensors
from smalllm.training.step import LossFunction, make_loss_function

QUIET = with_eval(with_train(CONFIG, max_steps=8, save_every=1, log_every=1), every=0, sample_every=0)
LONG = with_train(QUIET, max_steps=44, skip_spikes=6.0)


class Faulty:
    """A loss function that is off for the windows of some cursors; called in the order of training."""

    def __init__(self, sitting: Sitting, bad: set[int], *, factor: float = math.nan) -> None:
        self.sitting, self.bad, self.factor = sitting, bad, factor
        self.before: dict[int, list[Tensor]] = {}

    def __call__(self, model: nn.Module, token_ids: Tensor, targets: Tensor) -> Tensor:
        cursor, loss = self.sitting.cursors[-1], LOSS(model, token_ids, targets)
        self.before[cursor // WINDOWS] = [p.detach().clone() for p in model.parameters()]
        return loss * self.factor if cursor in self.bad else loss

    def changed(self, step: int) -> bool:
        """Whether the update of a step, counted from 0, changed the weights."""
        return any(not torch.equal(a, b) for a, b in zip(self.before[step], self.before[step + 1], strict=True))


def faulty(config: Any, bad_steps: set[int], *, factor: float = math.nan, **changes: Any) -> Sitting:
    sitting = Sitting(config=config, **changes)
    sitting.loss_function = Faulty(sitting, {step * WINDOWS for step in bad_steps}, factor=factor)
    return sitting


def events_of(sitting: Sitting) -> list[str]:
    return [event for event in sitting.events if event.startswith("event")]


def same_weights(one: Sitting, other: Sitting, step: int, other_step: int) -> bool:
    _, weights, moments = one.saved[step]
    _, others, other_moments = other.saved[other_step]
    return all(torch.equal(weights[n], others[n]) for n in weights) and all(
        torch.equal(moments[n], other_moments[n]) for n in moments
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_not_finite_changes_nothing_but_the_count(value: float) -> None:
    sitting = faulty(QUIET, {4}, factor=value)
    outcome = sitting.run()
    assert outcome.reason == "complete" and outcome.state.step == 8 and outcome.state.cursor == 8 * WINDOWS
    assert outcome.state.tokens == 7 * WINDOWS * CONTEXT
    assert isinstance(sitting.loss_function, Faulty)
    assert (
        sitting.loss_function.changed(3) and not sitting.loss_function.changed(4) and sitting.loss_function.changed(5)
    )
    assert 4 in sitting.saved and 5 not in sitting.saved  # nothing is saved while it is not known to be sound
    assert len(events_of(sitting)) == 1 and "event 5: update refused: the loss is" in events_of(sitting)[0]
    assert "train 5" not in sitting.events
    assert all(p.grad is None for p in sitting.model.parameters())


def test_a_spike_is_refused_on_request_only() -> None:
    sitting = faulty(LONG, {40}, factor=50.0)
    sitting.run()
    assert len(events_of(sitting)) == 1 and "beyond" in events_of(sitting)[0] and "6 sigma" in events_of(sitting)[0]
    assert isinstance(sitting.loss_function, Faulty) and not sitting.loss_function.changed(40)
    unasked = faulty(with_train(LONG, skip_spikes=0.0), {40}, factor=50.0)
    unasked.run()
    assert not events_of(unasked) and not same_weights(unasked, unasked, 40, 41)


def test_the_window_is_in_the_checkpoint() -> None:
    whole = faulty(LONG, {40}, factor=50.0)
    whole.run()
    resumed = whole.resume(35)
    resumed.loss_function = Faulty(resumed, {40 * WINDOWS}, factor=50.0)
    resumed.run()
    assert events_of(resumed) == events_of(whole) and same_weights(resumed, whole, 44, 44)
    forgetful = whole.resume(35)
    forgetful.loss_function = Faulty(forgetful, {40 * WINDOWS}, factor=50.0)
    forgetful.state = replace(forgetful.state, losses=(), grad_norms=())
    forgetful.run()
    assert not events_of(forgetful)  # the partner: without the window it would have been applied


def test_several_in_a_row_go_back_to_the_checkpoint_and_on() -> None:
    config = with_train(QUIET, max_steps=12, save_every=3, rewind_after=3)
    sitting = faulty(config, {4, 5, 6})
    outcome = sitting.run()
    # steps 4, 5, 6 are refused; nothing is saved among them, though step 6 would be due
    assert [event.split(":")[0] for event in events_of(sitting)] == ["event 5", "event 6", "event 7", "event 3"]
    assert "back from step 7 to the checkpoint of step 3" in events_of(sitting)[-1]
    assert outcome.state.step == 12 and outcome.state.cursor == 16 * WINDOWS and outcome.state.n_refused == 0
    killed = sitting.resume(3)
    killed.saved = {3: sitting.saved[3]}
    killed.loss_function = Faulty(killed, {step * WINDOWS for step in (4, 5, 6)})
    assert replace(killed.run().state, elapsed_s=0.0, train_time_s=0.0) == replace(
        outcome.state, elapsed_s=0.0, train_time_s=0.0
    )
    assert same_weights(killed, sitting, 12, 12)


def test_going_back_again_and_again_ends_the_run() -> None:
    sitting = faulty(with_train(QUIET, save_every=2, rewind_after=2), set(range(3, 10**4)))
    with pytest.raises(NonFiniteError, match=r"after 3 returns to the same checkpoint.*lower --optim\.lr"):
        sitting.run()
    moments = optimizer_tensors(sitting.optimizers)
    assert all(torch.isfinite(value).all() for value in moments.values())


def test_a_run_does_not_end_on_what_is_not_finite() -> None:
    sitting = faulty(QUIET, {7})
    with pytest.raises(NonFiniteError, match="step 8: the loss is nan"):
        sitting.run()
    assert max(sitting.saved) == 7


def test_what_refused_updates_left_is_not_called_the_best() -> None:
    """Nothing is saved at step 8, so a lower loss there is no checkpoint's."""
    losses = [3.0, 1.0, 2.0, 2.5]
    config = with_eval(with_train(QUIET, max_steps=16, save_every=0), every=4)
    bad, good = (faulty(config, steps, val_losses=losses) for steps in ({7}, set[int]()))
    state = bad.run().state
    assert (state.best_step, state.best_loss, state.n_worse) == (12, 2.0, 1)
    assert [event for event in bad.events if event.startswith("save")] == ["save 4 best", "save 12 best", "save 16"]
    assert good.run().state.best_step == 8  # the partner


def test_what_a_full_disk_did_not_take_is_not_called_the_best() -> None:
    config = with_eval(with_train(QUIET, max_steps=16, save_every=0), every=4)
    sitting = Sitting(config=config, val_losses=[3.0, 1.0, 2.0, 2.5], full_disk_at=[8])
    state = sitting.run().state
    assert (state.best_step, state.best_loss) == (12, 2.0)
    assert max(sitting.saved) == 16 and 8 not in sitting.saved


@pytest.mark.parametrize(("factor", "bad", "saved_step"), [(math.nan, {3, 4}, 2), (1e4, {40, 41}, 42)])
def test_a_signal_while_updates_are_refused(factor: float, bad: set[int], saved_step: int) -> None:
    """After a spike the weights are saved as they are; after what is not finite they may be unsound, and are not."""
    config = with_train(QUIET, max_steps=60, save_every=2, skip_spikes=6.0)
    sitting = faulty(config, bad, factor=factor)
    refused: list[str] = []

    def ends(state: TrainState, what: str) -> None:
        refused.append(what)
        if len(refused) == 2:
            signal.raise_signal(signal.SIGTERM)

    sitting.on_event = ends
    outcome = sitting.run()
    assert outcome.reason == "SIGTERM" and outcome.state.n_refused == 2 and outcome.state.step == max(bad) + 1
    assert outcome.saved_step == max(sitting.saved) == saved_step


def test_without_a_checkpoint_there_is_nothing_to_go_back_to() -> None:
    sitting = faulty(with_train(QUIET, save_every=0, rewind_after=2), {1, 2})
    with pytest.raises(NonFiniteError, match="step 2: the loss is nan"):
        sitting.run()


def fp16(**changes: Any) -> Sitting:
    sitting = Sitting(config=with_train(QUIET, precision="fp16"), **changes)
    sitting.loss_function = make_loss_function("cpu", "fp16", compile_it=False)
    return sitting


def test_fp16_finds_its_scale_and_keeps_it() -> None:
    sitting = fp16()
    sitting.state = replace(sitting.state, loss_scale=2.0**40)
    outcome = sitting.run()
    overflows = [event for event in events_of(sitting) if "FP16 overflow" in event]
    assert overflows and outcome.state.loss_scale == 2.0 ** (40 - len(overflows)) and outcome.state.n_refused == 0
    calm = fp16()
    calm.run()
    assert calm.rows[-1]["loss"] < calm.rows[0]["loss"] and not events_of(calm)
    again = calm.resume(4)
    again.loss_function = calm.loss_function
    again.run()
    assert same_weights(again, calm, 8, 8)


def test_scaling_changes_no_bit_where_nothing_overflows() -> None:
    def trained(scale: float) -> Sitting:
        sitting = Sitting(config=with_train(QUIET, precision="fp16"))
        sitting.state = replace(sitting.state, loss_scale=scale)
        sitting.run()
        return sitting

    # FP32 products: the scale is a power of two, and nothing is near either end of the range
    assert same_weights(trained(1.0), trained(1024.0), 8, 8)


def test_a_lost_scale_would_show() -> None:
    """The partner of the scale's tests: a gradient that is not divided by it is another update."""
    wrong: LossFunction = lambda model, x, y: LOSS(model, x, y) * 4.0  # noqa: E731
    sitting, right = Sitting(config=QUIET, loss_function=wrong), Sitting(config=QUIET)
    sitting.run(), right.run()
    assert not same_weights(sitting, right, 8, 8) and VOCAB
