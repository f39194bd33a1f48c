"""choices.py: that a step and an evaluation with a choice undone compute the same, by other means."""

from types import SimpleNamespace

import pytest
import torch

import model
from bench import choices
from bench.loops import OurLoop
from training import step as training

STEP_CHOICES = [
    *("bfloat16", "16 bits through float32"),
    *("attention by plain products", "its scale and mask within a product"),
    *("four dropout masks a draw", "AdamW fused", "a batch by one index", "noise by one draw"),
]


def set_instructions(monkeypatch, there):
    """Make this a CPU that has instructions for 16 bits, or that has none."""
    for module in ("model", "machine"):
        monkeypatch.setattr(f"{module}.has_instructions", lambda dtype: there or dtype.itemsize > 2)


@pytest.fixture
def chosen(parts, monkeypatch):
    """chosen(name, key=value, ...): (train.py's loop, the same without the choice of that name)."""
    set_instructions(monkeypatch, False)

    def build(name, **knobs):
        setting = parts(**{"dtype": "bfloat16", "noise_sigma": 0.1, "dropout": 0.1} | knobs)
        return OurLoop(*setting), choices.step_choices(*setting)[name]()

    return build


def test_choices_are_those_that_are_taken(parts, monkeypatch):
    def taken(**knobs):
        return list(choices.step_choices(*parts(**knobs)))

    for instructions in (True, False):
        set_instructions(monkeypatch, instructions)
        wanted = [name for name in STEP_CHOICES if not (instructions and "through" in name)]
        assert taken(dtype="bfloat16", noise_sigma=0.1, dropout=0.1) == wanted
    assert taken(dtype="float32", noise_sigma=0.0, dropout=0.0, input_noise=0.1) == ["AdamW fused"]
    assert taken(dtype="float32", noise_sigma=0.1, noise_scale="global", optimizer="sgd", dropout=0.1) == [
        *STEP_CHOICES[2:5], "a batch by one index"
    ]  # fmt: skip
    machine = SimpleNamespace(kind="cuda", dtype="bfloat16", compile=True, through_float32=False)
    config, corpus, _ = parts(noise_sigma=0.1)
    assert list(choices.step_choices(config, corpus, machine)) == [
        *("bfloat16", "blocks compiled", "attention fused"), *STEP_CHOICES[5:]
    ]  # fmt: skip
    assert not choices.evaluation_choices(machine)


@pytest.mark.parametrize("name", STEP_CHOICES)
def test_a_step_without_a_choice_is_the_same_step(chosen, name):
    """But for rounding, and for what a batch, dropout or noise draws."""
    loops = chosen(name, dropout=0.1 if "dropout" in name else 0.0, gradient_accumulation_steps=1)
    for loop in loops:
        for _ in range(3):
            loop.train_step()
    losses, noises = ([loop.training.trace[:3, column] for loop in loops] for column in (0, 2))
    drawn = "dropout" in name or "batch" in name
    assert torch.allclose(*losses, rtol=0.2 if drawn else 0.01)
    assert torch.equal(*noises) != ("noise" in name), "its norm is part of train.py's"


@pytest.mark.parametrize(
    ("name", "module", "function", "other"),
    [
        (STEP_CHOICES[1], model, "product", "by_its_own_kernel"),
        (STEP_CHOICES[2], model, "plain_attention", "fused_attention"),
        (STEP_CHOICES[3], model, "plain_attention", "attention_in_parts"),
        (STEP_CHOICES[6], training, "batch", "batch_by_rows"),
        (STEP_CHOICES[7], training, "add_noise", "noise_by_tensors"),
    ],
)
def test_without_a_choice_the_other_is_called_and_the_choice_comes_back(
    chosen, monkeypatch, name, module, function, other
):
    called, inner, before = [], getattr(choices, other), getattr(module, function)
    monkeypatch.setattr(
        choices, other, lambda *given, **options: called.append(other) or inner(*given, **options)
    )
    ours, undone = chosen(name)
    ours.train_step()
    assert not called
    undone.train_step()
    assert called
    assert getattr(module, function) is before


def test_other_precision_and_optimizer_without_the_choice(chosen):
    ours, undone = chosen("bfloat16")
    assert (ours.machine.dtype, undone.machine.dtype, undone.training.machine.dtype) == (
        "bfloat16",
        *["float32"] * 2,
    )
    ours, undone = chosen("AdamW fused")
    assert [loop.training.optimizer.defaults["fused"] for loop in (ours, undone)] == [True, None]


def test_attentions_written_otherwise_are_the_same():
    q, k, v = torch.randn((3, 2, 3, 8, 4), generator=torch.Generator().manual_seed(1))
    wanted = model.plain_attention(q, k, v, 0.0)
    for other in (choices.fused_attention, choices.attention_in_parts):
        torch.testing.assert_close(other(q, k, v, 0.0), wanted)


def test_evaluations_without_a_choice_are_the_same(parts):
    config, corpus, machine = parts(block_size=64, batch_size=2, eval_tokens=8192)
    t = OurLoop(config, corpus, machine).training
    wanted = training.val_loss(t)
    for name, others in choices.evaluation_choices(machine).items():
        with choices.replaced(others):
            assert training.val_loss(t) == pytest.approx(wanted, rel=1e-5), name

    def refuse(*_, **__):
        raise RuntimeError("called")

    for others in choices.evaluation_choices(machine).values():
        with choices.replaced(dict.fromkeys(others, refuse)), pytest.raises(RuntimeError, match="called"):
            training.val_loss(t)


def test_samples_without_a_choice_are_the_same(parts):
    """From a prompt long enough for oneDNN, which takes the matrices as they lie, and one by one from there."""
    weights = OurLoop(*parts(block_size=128)).model.weights()
    ours = model.GPT.from_weights(weights).for_sampling("cpu")
    start = torch.arange(80).remainder(20).view(1, 80)
    texts = [ours.generate(start, 40, [torch.Generator().manual_seed(1)])]
    for others in choices.sampling_choices(parts()[2]).values():
        with choices.replaced(others):
            undone = model.GPT.from_weights(weights).for_sampling("cpu")
        strides = [[m.blocks[0].mlp.fc.weight.stride(0), m.training] for m in (ours, undone)]
        assert strides == [[1, False], [16, False]]
        texts.append(undone.generate(start, 40, [torch.Generator().manual_seed(1)]))
    assert len(texts) == 2
    assert torch.equal(*texts)


@torch.no_grad()
def test_noise_drawn_by_tensors_has_the_same_sd(parts):
    t = OurLoop(*parts(noise_sigma=0.1)).training
    t.step = 3
    for parameter in t.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert choices.noise_by_tensors(t, torch.ones(())) == 0
    noise = torch.cat([parameter.grad.flatten() - 1 for parameter in t.model.parameters()])
    assert noise.std().item() == pytest.approx(t.noise.sigma(3), rel=0.05)
