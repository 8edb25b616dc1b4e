"""Co-teaching, early-learning regularization, robust early-learning: formulas by hand, and trainings that use them."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_exposure.errors import InputError
from hf_exposure.runs import (
    CoTeachingTrainer,
    CriticalUpdates,
    EarlyLearningTrainer,
    TwoNetworks,
    co_teaching_loss,
    early_learning_loss,
    keep_critical_gradients,
    keep_share,
)
from hf_exposure.signals import example_gradients


class Network(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x, labels=None):
        logits = self.layers(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits} if loss is not None else {"logits": logits}


def arguments(folder, **options):
    return TrainingArguments(
        str(folder), **{"num_train_epochs": 4, **options}, learning_rate=0.05, per_device_train_batch_size=16,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, logging_strategy="no",
        dataloader_pin_memory=False, remove_unused_columns=False,
    )  # fmt: skip


def blobs(count=64, wrong=0, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(2, size=count)
    x = generator.normal(size=(count, 2)) * 0.5 + 2.0 * labels[:, None]
    given = labels.copy()
    given[:wrong] = 1 - given[:wrong]
    return x.astype(np.float32), labels, given


def test_the_schedule_leaves_out_more_until_all_noise_is_out():
    shares = [keep_share(epoch, 0.4, 5) for epoch in range(8)]
    assert shares == pytest.approx([1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.6, 0.6])
    assert keep_share(100, 0.0) == 1.0
    for wrong in ((0, 1.0), (0, -0.1), (-1, 0.4), (0, 0.4, 0)):
        with pytest.raises(InputError):
            keep_share(*wrong)


def test_each_network_learns_from_the_rows_that_the_other_finds_easy():
    first = torch.randn(6, 3, requires_grad=True, generator=torch.Generator().manual_seed(0))
    second = torch.randn(6, 3, requires_grad=True, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    by_hand = [-logits.log_softmax(1)[torch.arange(6), labels] for logits in (first, second)]
    easy = [sorted(range(6), key=lambda row, own=own: float(own[row].detach()))[:3] for own in by_hand]
    co_teaching_loss(first, second, labels, 0.5).backward()
    wanted = by_hand[0][easy[1]].mean() + by_hand[1][easy[0]].mean()
    assert co_teaching_loss(first, second, labels, 0.5).item() == pytest.approx(wanted.item())
    assert first.grad.abs().sum(1).nonzero().flatten().tolist() == sorted(easy[1])
    assert second.grad.abs().sum(1).nonzero().flatten().tolist() == sorted(easy[0])
    # With all rows it is the sum of two plain losses. A share of less than one row keeps one.
    plain = sum(nn.functional.cross_entropy(logits, labels) for logits in (first, second))
    assert co_teaching_loss(first, second, labels, 1.0).item() == pytest.approx(plain.item())
    assert torch.isfinite(co_teaching_loss(first, second, labels, 1e-6))


def test_two_networks_with_co_teaching_do_not_learn_wrong_labels(tmp_path):
    x, true, given = blobs(160, wrong=48)
    data = Dataset.from_dict({"x": x.tolist(), "labels": given})
    torch.manual_seed(0)
    pair = TwoNetworks(Network(), Network())
    options = {"train_dataset": data, "eval_dataset": data}
    trainer = CoTeachingTrainer(pair, arguments(tmp_path, num_train_epochs=15), noise=0.35, ramp_epochs=5, **options)
    trainer.train()
    found = trainer.predict(data).predictions.argmax(1)
    # Most rows with a wrong label get the true one.
    assert (found == true)[:48].mean() > 0.9
    losses = trainer.evaluate()
    plain = nn.functional.cross_entropy(torch.tensor(trainer.predict(data).predictions), torch.tensor(given))
    assert losses["eval_loss"] == pytest.approx(plain.item(), rel=1e-3)
    with pytest.raises(InputError, match="^model"):
        CoTeachingTrainer(Network(), arguments(tmp_path), noise=0.2, train_dataset=data)
    with pytest.raises(InputError, match="^noise"):
        CoTeachingTrainer(pair, arguments(tmp_path), noise=1.0, train_dataset=data)
    shared = Network()
    with pytest.raises(InputError, match="^first, second"):
        TwoNetworks(shared, shared)
    unlabeled = CoTeachingTrainer(pair, arguments(tmp_path), noise=0.2, train_dataset=data.remove_columns("labels"))
    with pytest.raises(InputError, match="^labels"):
        unlabeled.train()


def test_the_regularizer_is_that_of_the_paper():
    logits = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]], requires_grad=True)
    targets = torch.tensor([[0.2, 0.3, 0.1], [0.0, 0.0, 0.9]])
    labels = torch.tensor([2, 2])
    p = logits.detach().softmax(1).numpy()
    by_hand = np.mean([
        -math.log(p[row, 2]) + 3.0 * math.log(1.0 - float(p[row] @ targets[row].numpy())) for row in range(2)
    ])  # fmt: skip
    loss = early_learning_loss(logits, labels, targets)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    loss.backward()
    # Lemma 2 of the paper: the gradient is p - y + strength * g, with
    # g_c = p_c / (1 - <p, t>) * sum_k (t_k - t_c) p_k.
    for row in range(2):
        t = targets[row].numpy()
        g = p[row] / (1.0 - p[row] @ t) * np.array([((t - t[c]) * p[row]).sum() for c in range(3)])
        wanted = (p[row] - np.eye(3)[2] + 3.0 * g) / 2.0
        assert logits.grad[row].numpy() == pytest.approx(wanted, abs=1e-5)
    sure = torch.tensor([[50.0, 0.0]])
    assert torch.isfinite(early_learning_loss(sure, torch.tensor([0]), torch.tensor([[1.0, 0.0]])))


def test_targets_remember_the_predictions_for_each_row(tmp_path):
    x, _, given = blobs(32)
    data = Dataset.from_dict({"x": x.tolist(), "labels": given, "row_index": list(range(32))})
    torch.manual_seed(0)
    model = Network()
    said = model(torch.tensor(x))["logits"].detach().softmax(1)
    args = arguments(tmp_path, max_steps=1)
    trainer = EarlyLearningTrainer(model, args, train_dataset=data, num_labels=2, memory=0.7)
    trainer.train()
    seen = trainer.targets.sum(1) > 0
    assert int(seen.sum()) == 16  # one batch
    assert trainer.targets[seen] == pytest.approx(0.3 * said[seen].numpy(), abs=1e-3)
    with pytest.raises(InputError, match="^row_index"):
        EarlyLearningTrainer(model, args, train_dataset=data.remove_columns("row_index"), num_labels=2).train()
    with pytest.raises(InputError, match="^row_index"):
        EarlyLearningTrainer(model, args, train_dataset=data.select(range(16, 32)), num_labels=2).train()
    with pytest.raises(InputError, match="^memory"):
        EarlyLearningTrainer(model, args, train_dataset=data, num_labels=2, memory=1.0)
    with pytest.raises(InputError, match="^train_dataset"):
        EarlyLearningTrainer(model, args, train_dataset=data.to_iterable_dataset(), num_labels=2)
    assert trainer.evaluate(data)["eval_loss"] > 0.0


def test_only_critical_weights_keep_their_gradient(tmp_path):
    torch.manual_seed(1)
    model = Network()
    x, _, given = blobs(32)
    model(torch.tensor(x), torch.tensor(given))["loss"].backward()
    before = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    matter = torch.cat([(w * w.grad).detach().abs().flatten() for w in model.parameters() if w.dim() == 2])
    critical = keep_critical_gradients(model, noise=0.4)
    least = sorted(matter.tolist(), reverse=True)[round(0.6 * matter.numel()) - 1]
    assert critical == sum(value >= least for value in matter.tolist())
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert torch.equal(weight.grad, before[name])
            continue
        kept = (weight * before[name]).abs() >= least
        assert torch.allclose(weight.grad, torch.where(kept, before[name] * 0.6, torch.zeros(())))
    with pytest.raises(InputError, match="^model"):
        keep_critical_gradients(Network(), 0.4)
    with pytest.raises(InputError, match="^noise"):
        CriticalUpdates(1.0)


def test_the_callback_acts_before_each_step(tmp_path):
    x, _, given = blobs(32)
    data = Dataset.from_dict({"x": x.tolist(), "labels": given})
    model = Network()
    start = copy.deepcopy(model.state_dict())
    callback = CriticalUpdates(noise=0.5)
    args = arguments(tmp_path, max_steps=1, optim="sgd", max_grad_norm=0.0)
    Trainer(model, args, train_dataset=data, callbacks=[callback]).train()
    moved = sum(int((weight != start[name]).sum()) for name, weight in model.named_parameters() if weight.dim() == 2)
    assert 0 < moved <= callback.critical <= 0.5 * (2 * 32 * 2) + 1


def test_gradients_of_examples_are_those_of_batches_of_one():
    torch.manual_seed(0)
    model = Network(4)
    x, _, given = blobs(5)
    found = example_gradients(model, torch.tensor(x), given)
    model(torch.tensor(x), torch.tensor(given))["loss"].backward()
    whole = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert found.mean(0) == pytest.approx(whole.numpy(), abs=1e-6)
    model.zero_grad()
    last = example_gradients(model, torch.tensor(x), given, layers=["layers.2"])
    assert np.allclose(last, found[:, -10:])
    assert all(weight.grad is None for weight in model.parameters()) and model.training
    with pytest.raises(InputError, match="^layers"):
        example_gradients(model, torch.tensor(x), given, layers=["head"])
    with pytest.raises(InputError, match="^labels_N"):
        example_gradients(model, torch.tensor(x), given[:3])
