"""The loop by itself, its files replaced by lists: the order of events, what rows say, when it ends."""

import copy
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from smalllm.checkpoint import TrainState
from smalllm.config import ModelConfig, OptimConfig, RunConfig, TrainConfig
from smalllm.errors import NonFiniteError
from smalllm.model.gpt import GPT
from smalllm.model.init import init_weights
from smalllm.optim.optimizers import build_optimizers, load_optimizer_tensors, optimizer_tensors
from smalllm.optim.schedule import lr_scale
from smalllm.training.clock import Clock
from smalllm.training.loop import EMA_ALPHA, Outcome, Parts, run_loop
from smalllm.training.signals import SAME_S, stop_signals
from smalllm.training.step import LossFunction, make_loss_function
from smalllm.training.warmup import run_once, time_update

VOCAB, CONTEXT, WINDOWS = 11, 8, 6
MODEL = ModelConfig(n_layers=1, n_heads=2, d_model=16, context_length=CONTEXT, dropout=0.2)
OPTIM = OptimConfig(lr=1e-2, warmup_steps=3)
TRAIN = TrainConfig(
    max_steps=8, tokens_per_step=WINDOWS * CONTEXT, micro_batch_size=2, log_every=1, save_every=3, save_every_s=0.0
)
CONFIG = RunConfig(model=MODEL, optim=OPTIM, train=TRAIN)
CONFIG = replace(CONFIG, eval=replace(CONFIG.eval, every=2, sample_every=4))
LOSS = make_loss_function("cpu", "fp32", compile_it=False)


def with_train(config: RunConfig = CONFIG, **changes: Any) -> RunConfig:
    return replace(config, train=replace(config.train, **changes))


def with_eval(config: RunConfig = CONFIG, **changes: Any) -> RunConfig:
    return replace(config, eval=replace(config.eval, **changes))


def batches(cursor: int, *, micro_batch_size: int = 2) -> Sequence[tuple[Tensor, Tensor]]:
    """Windows that depend on the cursor alone."""
    rows = torch.stack(
        [
            torch.randint(VOCAB, (CONTEXT + 1,), generator=torch.Generator().manual_seed(cursor + i))
            for i in range(WINDOWS)
        ]
    )
    return [(part[:, :-1], part[:, 1:]) for part in rows.split(micro_batch_size)]


@dataclass
class Sitting:
    """A model, its optimizers, and lists of all that the loop did with the parts it was given."""

    config: RunConfig = CONFIG
    state: TrainState = field(default_factory=TrainState)
    val_losses: Sequence[float] | None = None
    on_row: Callable[[Mapping[str, Any]], None] = lambda row: None
    on_event: Callable[[TrainState, str], None] = lambda state, what: None
    full_disk_at: Sequence[int] = ()
    loss_function: LossFunction = LOSS
    rows: list[dict[str, Any]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    saved: dict[int, tuple[TrainState, dict[str, Tensor], dict[str, Tensor]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model = GPT(self.config.model, vocab_size=VOCAB)
        init_weights(self.model, seed=1)
        self.optimizers = build_optimizers(self.model, self.config.optim)
        self.modes: list[bool] = []
        self.cursors: list[int] = []

    def resume(self, step: int, **changes: Any) -> "Sitting":
        """A new sitting that starts from what was saved at a step."""
        state, weights, moments = self.saved[step]
        new = replace(self, state=state, rows=[], events=[], saved={}, **changes)
        new.model.load_state_dict(weights)
        load_optimizer_tensors(new.optimizers, moments)
        return new

    def evaluate(self) -> Mapping[str, float]:
        self.model.eval()
        number = sum(e.startswith("val") for e in self.events)
        loss = self.val_losses[number] if self.val_losses else LOSS(self.model, *batches(10**6)[0]).item()
        return {"loss": loss, "perplexity": math.exp(loss)}

    def save(self, state: TrainState, is_best: bool, is_last: bool) -> bool:
        if state.step in self.full_disk_at and not is_last:
            return False
        self.events.append(f"save {state.step}{' best' if is_best else ''}")
        self.saved[state.step] = copy.deepcopy((state, self.model.state_dict(), optimizer_tensors(self.optimizers)))
        return True

    def rewind(self) -> TrainState | None:
        if not self.saved:
            return None
        state, weights, moments = self.saved[max(self.saved)]
        self.model.load_state_dict(weights)
        load_optimizer_tensors(self.optimizers, moments)
        return state

    def event(self, state: TrainState, what: str) -> None:
        self.events.append(f"event {state.step}: {what}")
        self.on_event(state, what)

    def row(self, row: Mapping[str, Any]) -> None:
        self.events.append(f"{row['split']} {row['step']}")
        self.rows.append(dict(row))
        self.on_row(row)

    def batches(self, cursor: int) -> Sequence[tuple[Tensor, Tensor]]:
        self.modes.append(self.model.training)
        self.cursors.append(cursor)
        return batches(cursor, micro_batch_size=self.config.train.micro_batch_size or 1)

    def run(self) -> Outcome:
        parts = Parts(
            loss_function=self.loss_function,
            batches=self.batches,
            evaluate=self.evaluate,
            sample=lambda step: self.events.append(f"sample {step}"),
            save=self.save,
            row=self.row,
            event=self.event,
            rewind=self.rewind,
            flops_per_step=10**6,
            peak_flops=1e9,
        )
        return run_loop(self.model, self.optimizers, self.config, self.state, parts)

    def numbers(self) -> list[tuple[Any, ...]]:
        names = ("split", "step", "tokens", "loss", "loss_ema", "lr", "grad_norm")
        return [tuple(row.get(name) for name in names) for row in self.rows]


def finished(**changes: Any) -> Sitting:
    sitting = Sitting(**changes)
    sitting.run()
    return sitting


def stop_at(step: int, number: int = signal.SIGTERM) -> Callable[[Mapping[str, Any]], None]:
    def stop(row: Mapping[str, Any]) -> None:
        if row["split"] == "train" and row["step"] == step:
            os.kill(os.getpid(), number)

    return stop


def test_the_order_of_events() -> None:
    sitting = finished(val_losses=[3.0, 2.0, 2.5, 1.0])
    assert sitting.events == [
        "train 1", "train 2", "val 2", "save 2 best", "train 3", "save 3", "train 4", "val 4", "sample 4",
        "save 4 best", "train 5", "train 6", "val 6", "save 6", "train 7", "train 8", "val 8", "sample 8",
        "save 8 best",
    ]  # fmt: skip
    assert sitting.modes == [True] * 8  # evaluation does not leave the model in its mode
    assert sitting.cursors == [WINDOWS * step for step in range(8)]


def test_intervals_of_zero_mean_the_end_only() -> None:
    sitting = finished(config=with_eval(with_train(save_every=0, log_every=100), every=0, sample_every=0))
    assert sitting.events == ["train 1", "train 8", "val 8", "sample 8", "save 8 best"]


def test_saving_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_eval(with_train(save_every=0, save_every_s=1e-9), every=0, sample_every=0)
    assert sum(e.startswith("save") for e in finished(config=config).events) == 8
    config = with_train(config, save_every_s=1e9)
    assert sum(e.startswith("save") for e in finished(config=config).events) == 1


def test_the_state_and_rows_count_updates() -> None:
    sitting = Sitting()
    outcome = sitting.run()
    assert outcome.reason == "complete"
    state = outcome.state
    assert (state.step, state.cursor, state.tokens) == (8, 8 * WINDOWS, 8 * WINDOWS * CONTEXT)
    train_rows = [row for row in sitting.rows if row["split"] == "train"]
    assert [row["step"] for row in train_rows] == list(range(1, 9))
    assert [row["tokens"] for row in train_rows] == [s * WINDOWS * CONTEXT for s in range(1, 9)]
    assert set(train_rows[0]) == {
        "split", "step", "tokens", "elapsed_s", "loss", "loss_ema", "lr", "grad_norm", "step_time_s",
        "tokens_per_second", "mfu", "peak_memory_bytes",
    }  # fmt: skip
    for row in train_rows:
        assert row["tokens_per_second"] == WINDOWS * CONTEXT / row["step_time_s"]
        assert row["mfu"] == 1e6 / row["step_time_s"] / 1e9


def test_a_row_holds_the_rate_and_loss_of_the_update_that_led_to_it() -> None:
    sitting = finished()
    rows = [row for row in sitting.rows if row["split"] == "train"]
    for row in rows:
        assert row["lr"] == OPTIM.lr * lr_scale(row["step"] - 1, OPTIM, max_steps=8)
    assert rows[0]["lr"] == pytest.approx(OPTIM.lr / 3)  # warmup begins above 0
    assert rows[0]["lr"] != OPTIM.lr * lr_scale(rows[0]["step"], OPTIM, max_steps=8)  # the partner
    # The first loss is that of the untrained model on the first batch; dropout aside, so without it.
    plain = replace(CONFIG, model=replace(MODEL, dropout=0.0))
    first = finished(config=plain).rows[0]["loss"]
    untrained = Sitting(config=plain).model
    expected = sum(LOSS(untrained, *batch).item() / 3 for batch in batches(0))
    assert first == pytest.approx(expected, rel=1e-6)


def test_the_rate_in_a_row_is_the_rate_of_the_optimizer() -> None:
    sitting = Sitting()
    seen = []
    sitting.on_row = lambda row: seen.append((row.get("lr"), sitting.optimizers[0].param_groups[0]["lr"]))
    sitting.run()
    assert len([1 for logged, used in seen if logged is not None]) == 8
    assert all(logged == used for logged, used in seen if logged is not None)


def test_the_running_mean() -> None:
    rows = [row for row in finished().rows if row["split"] == "train"]
    ema = rows[0]["loss"]
    assert rows[0]["loss_ema"] == ema
    for row in rows[1:]:
        ema = ema + EMA_ALPHA * (row["loss"] - ema)
        assert row["loss_ema"] == ema
    assert EMA_ALPHA == 0.01


@pytest.mark.parametrize("step", range(1, 8))
def test_stopped_at_any_step_and_resumed_is_as_if_nothing_had_happened(step: int) -> None:
    whole = finished()
    first = Sitting(on_row=stop_at(step))
    outcome = first.run()
    assert (outcome.reason, outcome.state.step) == ("SIGTERM", step)
    second = first.resume(step, on_row=lambda row: None)
    assert second.run().reason == "complete"
    assert first.numbers() + second.numbers() == whole.numbers()
    assert_same(second, whole)


def assert_same(left: Sitting, right: Sitting) -> None:
    for (name, one), other in zip(left.model.named_parameters(), right.model.parameters(), strict=True):
        assert torch.equal(one, other), name
    ours, theirs = optimizer_tensors(left.optimizers), optimizer_tensors(right.optimizers)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.mark.parametrize("lost", ["optimizer", "cursor", "step"])
def test_a_resume_that_forgets_something_is_caught(lost: str) -> None:
    """The partner of the test above: each part of the state decides the weights to come."""
    whole = finished()
    first = Sitting(on_row=stop_at(4))
    first.run()
    state, weights, moments = first.saved[4]
    if lost == "optimizer":
        first.saved[4] = state, weights, {}
    else:
        first.saved[4] = replace(state, **{lost: getattr(state, lost) - 1}), weights, moments
    second = first.resume(4, on_row=lambda row: None)
    second.run()
    with pytest.raises(AssertionError):
        assert_same(second, whole)


def test_dropout_is_drawn_anew_at_each_step_and_micro_step() -> None:
    """On equal batches and at rate 0, losses differ by dropout alone."""
    frozen = replace(CONFIG, optim=replace(OPTIM, lr=0.0, weight_decay=0.0), train=replace(TRAIN, max_steps=4))
    sitting = Sitting(config=with_eval(frozen, every=0))
    sitting.batches = lambda cursor: batches(0)  # type: ignore[method-assign]
    sitting.run()
    losses = [row["loss"] for row in sitting.rows if row["split"] == "train"]
    assert len(set(losses)) == 4
    still = replace(frozen, model=replace(MODEL, dropout=0.0))
    sitting = Sitting(config=with_eval(still, every=0))
    sitting.batches = lambda cursor: batches(0)  # type: ignore[method-assign]
    sitting.run()
    assert len({row["loss"] for row in sitting.rows if row["split"] == "train"}) == 1


@pytest.mark.parametrize("micro_batch_size", [1, 3, 6])
def test_micro_batches_do_not_change_what_is_learned(micro_batch_size: int) -> None:
    plain = replace(CONFIG, model=replace(MODEL, dropout=0.0))
    whole = finished(config=plain)
    other = finished(config=with_train(plain, micro_batch_size=micro_batch_size))
    for ours, theirs in zip(whole.rows, other.rows, strict=True):
        # Sums in another order: FP32 rounding, grown over eight updates.
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    # The partner: one sequence less per step is seen at once.
    short = Sitting(config=plain)
    short.batches = lambda cursor: batches(cursor)[:-1]  # type: ignore[method-assign]
    short.run()
    assert short.rows[0]["loss"] != pytest.approx(whole.rows[0]["loss"], rel=1e-4)


def test_the_best_is_the_lowest_validation_loss() -> None:
    sitting = Sitting(val_losses=[3.0, 2.0, 2.0, 2.5])
    state = sitting.run().state
    assert [e for e in sitting.events if "best" in e] == ["save 2 best", "save 4 best"]  # an equal one is not better
    assert (state.best_loss, state.best_step, state.n_worse) == (2.0, 4, 2)


def test_a_nan_is_not_best() -> None:
    sitting = Sitting(val_losses=[3.0, math.nan, 2.0, math.nan])
    state = sitting.run().state
    assert (state.best_loss, state.best_step) == (2.0, 6)


def test_patience() -> None:
    losses = [3.0, 2.0, 2.5, 2.1, 1.0]
    config = with_train(max_steps=10, patience=2)
    sitting = Sitting(config=config, val_losses=losses)
    outcome = sitting.run()
    assert (outcome.reason, outcome.state.step) == ("patience", 8)
    assert sitting.events[-3:] == ["val 8", "sample 8", "save 8"]
    assert Sitting(config=with_train(config, patience=3), val_losses=losses).run().state.step == 10
    # Resumed, it is still out of patience: it saves nothing and takes no step.
    again = sitting.resume(8)
    assert again.run().reason == "patience" and again.events == []


def test_a_complete_run_is_left_alone() -> None:
    whole = finished()
    again = whole.resume(8)
    assert again.run().reason == "complete" and again.events == []


def test_a_longer_run_goes_on_from_a_complete_one() -> None:
    whole = finished()
    longer = whole.resume(8, config=with_train(max_steps=10))
    assert longer.run().state.step == 10
    assert [e for e in longer.events if e.startswith("train")] == ["train 9", "train 10"]


def poisoned(step: int, value: float) -> tuple[Sitting, dict[str, Tensor]]:
    """A sitting that gets a bad weight after a step, and the weights from then on."""
    sitting = Sitting(config=with_train(with_eval(every=0), rewind_after=0))
    weights: dict[str, Tensor] = {}

    def on_row(row: Mapping[str, Any]) -> None:
        if row["step"] == step:
            with torch.no_grad():
                next(sitting.model.parameters())[0] = value
            weights.update(copy.deepcopy(sitting.model.state_dict()))

    sitting.on_row = on_row
    return sitting, weights


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights(value: float) -> None:
    sitting, before = poisoned(5, value)
    with pytest.raises(NonFiniteError, match=r"step 5: .*weights of step 5 are untouched.*lower --optim\.lr") as caught:
        sitting.run()
    assert caught.value.step == 5
    assert sitting.events[-1] == "train 5" and sorted(sitting.saved) == [3]  # the last checkpoint stays the newest
    for name, parameter in sitting.model.named_parameters():
        assert torch.equal(torch.nan_to_num(parameter), torch.nan_to_num(before[name])), name
        assert parameter.grad is None
    moments = optimizer_tensors(sitting.optimizers)
    assert all(torch.isfinite(value).all() for value in moments.values())


def test_a_rate_too_high_for_numbers() -> None:
    config = with_eval(replace(CONFIG, optim=replace(OPTIM, lr=1e30, warmup_steps=0)), every=0)
    sitting = Sitting(config=config)
    with pytest.raises(NonFiniteError, match=r"lower --optim\.lr"):
        sitting.run()
    assert finished(config=with_eval(every=0)).events[-1] == "save 8 best"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_asked_once_and_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals() as stop:
        names = [stop.name]
        assert signal.getsignal(number) is not before
        os.kill(os.getpid(), number)
        names.append(stop.name)
        assert names == [None, number.name]
    assert signal.getsignal(number) is before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts background jobs with SIGINT ignored; what comes back must be Python's own handler here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_is_not_held_back(interruptible: None) -> None:
    with pytest.raises(KeyboardInterrupt), stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        stop.asked_at_s -= SAME_S
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    with stop_signals(insist=False) as stop:  # torchrun's: it will see to the end itself
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            stop.asked_at_s -= SAME_S
        assert stop.name == "SIGINT"


def test_a_signal_that_arrives_twice_is_one(interruptible: None) -> None:
    """As `timeout` sends it: to the process, and to its group."""
    with stop_signals() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.name == "SIGINT"
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_a_thread_trains_without_signals() -> None:
    names: list[str | None] = []

    def body() -> None:
        with stop_signals() as stop:
            names.append(stop.name)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert names == [None]


def test_the_clock_goes_on_where_it_was() -> None:
    clock = Clock(elapsed_s=100.0, train_time_s=90.0)
    clock.count_step(2.0, n_tokens=10)
    clock.count_step(4.0, n_tokens=5)
    assert clock.take_row() == (3.0, 7.5) and clock.take_row() == (0.0, 0.0)
    assert clock.train_time_s == 96.0 and 100.0 <= clock.elapsed_s < 160.0


def test_warming_up_leaves_no_trace() -> None:
    whole, warmed = Sitting(), Sitting()
    run_once(warmed.model, LOSS, batches(0)[0])
    seconds = time_update(warmed.model, warmed.optimizers, LOSS, batches(0)[0], grad_accum_steps=3, device="cpu")
    assert seconds > 0 and all(not optimizer.state for optimizer in warmed.optimizers)
    assert all(parameter.grad is None for parameter in warmed.model.parameters())
    whole.run()
    warmed.run()
    assert warmed.numbers() == whole.numbers()
    assert_same(warmed, whole)


def test_one_batch_keeps_the_cursor_where_it_is() -> None:
    sitting = Sitting(with_train(overfit_one_batch=True))
    assert sitting.run().state.cursor == 0
    assert sitting.cursors == [0] * 8
    moving = Sitting()
    moving.run()
    assert moving.cursors == [WINDOWS * step for step in range(8)]
