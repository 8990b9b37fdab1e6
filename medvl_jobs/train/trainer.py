"""The Trainer whose step is a whole global batch, dealt by the schedule and weighted by tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from medvl_jobs.errors import DataError
from medvl_jobs.train.batches import MicroBatch, Schedule
from medvl_jobs.train.data import StepLoader, StepOfProcess
from medvl_jobs.train.ranks import Ranks
from medvl_jobs.train.zero import adapter_weights

log = logging.getLogger(__name__)

BadStep = Callable[[int, list[MicroBatch], float], None]
"""Told of a step whose loss is no finite number: its number, this process's examples, this process's loss."""


class AnswerTrainer(Trainer):
    """transformers' Trainer, with a step that is as many forward passes as the schedule says.

    The stock one weights each micro-batch of a step alike and each process alike, whatever they hold: for this class of
    model it does not ask how many labels there are in all. Here every micro-batch gives the *sum* of its losses, and
    the step's mean is over the labelled tokens of all of them on all processes, which the schedule knows beforehand. So
    the gradient does not depend on how a batch was split.
    """

    def __init__(
        self, *, loader: StepLoader, ranks: Ranks, bad_steps: int, on_bad_step: BadStep, **arguments: Any
    ) -> None:
        """``bad_steps``: so many in a row with a loss that is no finite number end the training."""
        super().__init__(train_dataset=loader.dataset, **arguments)
        self.loader, self.ranks = loader, ranks
        self.schedule: Schedule = loader.schedule
        self.on_bad_step, self.most_bad_steps, self.bad_steps = on_bad_step, bad_steps, 0
        self.left_out = 0
        """Steps without a finite loss or gradient, in this attempt."""

    def get_train_dataloader(self) -> StepLoader:
        """The loader as it is: it has its share of the data already, and accelerate would share it out again."""
        return self.loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[StepOfProcess], num_batches: int, device: torch.device
    ) -> tuple[list[StepOfProcess], None]:
        """The next step. How many labels it has is no question here, see `training_step`."""
        return list(islice(epoch_iterator, num_batches)), None

    def training_step(
        self, model: nn.Module, inputs: StepOfProcess, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward passes of one step; returns this process's part of the loss, times the processes.

        The mean of that over the processes, which DDP, DeepSpeed and the log all take, is nats per labelled token.
        Raises `DataError` after too many steps without a finite loss, with nothing of the last one applied.
        """
        model.train()
        scale = self.args.world_size / self.schedule[inputs.number].totals.labels
        total = torch.zeros((), device=self.args.device)
        finite = True
        for number, (_, batch) in enumerate(inputs, start=1):
            last = number == len(inputs)
            self.accelerator.gradient_state._set_sync_gradients(last)  # as the Trainer itself does
            with self._synchronised(model, last=last):
                with self.compute_loss_context_manager():
                    loss = model(**self._prepare_inputs(batch)) * scale
                total += loss.detach()
                if last:
                    bad = not torch.isfinite(total)
                    finite = not any(
                        self.ranks.largest(int(bad))
                    )  # one alone that stops would leave the others waiting
                    if self.is_deepspeed_enabled and not finite:
                        self._count_bad(inputs, total)  # now: its backward pass is the optimiser's step too
                self.accelerator.backward(loss, **self._backward_arguments())
        if finite and self._gradient_is_finite():
            self.bad_steps = 0
            return total
        self._count_bad(inputs, total)
        model.zero_grad(set_to_none=True)  # the optimiser leaves alone what has no gradient
        return torch.zeros_like(total)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The adapter alone, in float32; under DeepSpeed all processes gather it from each other."""
        if not self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)
            return
        weights = adapter_weights(self.model)
        if self.args.should_save:
            self._save(output_dir or self.args.output_dir, state_dict=weights)

    def floating_point_ops(self, inputs: StepOfProcess) -> int:
        """Not counted here: `tracking` knows what a token costs this model."""
        return 0

    def _synchronised(self, model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged once a step. DeepSpeed is told by the flag above, DDP by this."""
        if last or self.is_deepspeed_enabled:
            return nullcontext()
        return self.accelerator.no_sync(model)

    def _backward_arguments(self) -> dict[str, bool]:
        # DeepSpeed would divide by a number of micro-batches of its own.
        return {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}

    def _gradient_is_finite(self) -> bool:
        """The same on all processes, which have exchanged it."""
        if self.is_deepspeed_enabled:  # it has left the step out by itself, and would say so to nobody
            return not self.accelerator.optimizer_step_was_skipped
        gradients = [each.grad for each in self.model.parameters() if each.grad is not None]
        return bool(torch.isfinite(nn.utils.get_total_norm(gradients)))

    def _count_bad(self, inputs: StepOfProcess, total: torch.Tensor) -> None:
        self.bad_steps += 1
        self.left_out += 1
        step, most = inputs.number + 1, 1 if self.is_deepspeed_enabled else self.most_bad_steps
        log.error("step %d: loss or gradient is no finite number; left out, %d of %d", step, self.bad_steps, most)
        self.on_bad_step(step, list(inputs.examples), float(total))
        if self.bad_steps >= most:
            raise DataError(
                f"the loss or its gradient was no finite number in {self.bad_steps} steps in a row",
                where=f"step {step}",
                remedy="look at the examples named beside the adapter; lower train.learning_rate, or raise "
                "train.warmup_ratio",
            )
