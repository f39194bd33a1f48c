"""Each example of docs/integrations.md as it stands there, and the callbacks in the real trainers.

Whatever the trainer, the optimizer steps with clip(g_t) + sigma_t xi_t, bit for bit, where t counts its steps.
As `python -m tests.test_integrations NAME FOLDER` this file is one rank of an example with several.
"""

import ast
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import noise
import noise_callbacks
from config import ROOT
from noise import GradientNoise

PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
EXAMPLES = {
    part.partition("\n")[0]: re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    for part in re.split(r"(?m)^## ", PAGE)[1:]
}
SIGMA = noise.schedule("exponential", sigma=0.01, gamma=0.99)
STEPS = 6


class Watch:
    """For each step: t, the gradients that the noise came to, and those that the optimizer stepped with."""

    def __init__(self, patch):
        self.steps, self.given, self.used = [], [], []
        add_ = GradientNoise.add_

        def watched(noise_, step, **options):
            self.noise = noise_
            self.steps.append(step)
            self.given.append(self.gradients())
            return add_(noise_, step, **options)

        patch(GradientNoise, "add_", watched)
        self.hook = register_optimizer_step_post_hook(lambda *_: self.used.append(self.gradients()))

    def gradients(self):
        whole = [getattr(p.grad, "full_tensor", lambda p=p: p.grad)() for p in self.noise.parameters]
        return torch.cat([gradient.flatten() for gradient in whole])

    def check(self, steps, norm=1.0, seed=1):
        """norm: of the gradients when they are clipped; None where they are not."""
        assert self.steps == list(steps)
        noise_ = GradientNoise(model().named_parameters(), SIGMA, seed)
        for step, given, used in zip(self.steps, self.given, self.used, strict=True):
            xi = torch.cat([xi.flatten() for xi in noise_.unit(step)])
            assert torch.equal(used, given.add(xi, alpha=SIGMA(step)))
            assert given.norm().item() == pytest.approx(norm, rel=1e-4) if norm else given.norm() > 10


@pytest.fixture
def watch(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the trainers write there
    watch = Watch(monkeypatch.setattr)
    yield watch
    watch.hook.remove()


def model():
    """Its tensors divide evenly by nothing: two ranks have 4 and 3 of 7 rows, 1 and 0 of one."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 1))


def data(rank=0, count=STEPS):
    generator = torch.Generator().manual_seed(rank)
    return [tuple(torch.randn(8, size, generator=generator) for size in (5, 1)) for _ in range(count)]


def loss_function(output, target):
    return 1e3 * nn.functional.mse_loss(output, target)  # clipping has something to do


def given(**more):
    """What an example takes for granted."""
    a_model = more.pop("model", None) or model()
    optimizer = torch.optim.AdamW(a_model.parameters(), lr=1e-3)
    common = {"torch": torch, "GradientNoise": GradientNoise, "sigma": SIGMA, "loss_function": loss_function}
    return {**common, "model": a_model, "optimizer": optimizer, "batches": data(), **more}


def example(name):
    (code,) = EXAMPLES[name]
    return code


def test_every_example_has_its_test():
    assert {name for name, codes in EXAMPLES.items() if codes} == {
        *("A plain loop", "nanoGPT", "transformers", "Lightning", "accelerate", "DDP", "FSDP2")
    }


def test_the_plain_loop(watch):
    exec(example("A plain loop"), given())
    watch.check(range(STEPS))


@pytest.mark.parametrize("grad_clip", [1.0, 0.0])
def test_nanogpt_with_a_gradient_scaler(watch, grad_clip):
    """Its loop around the example, whose first lines make the same noise at every step, as it has no state."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    names = given(scaler=scaler, grad_clip=grad_clip)
    for iter_num, (x, y) in enumerate(data()):
        scaler.scale(loss_function(names["model"](x), y)).backward()
        exec(example("nanoGPT"), names | {"iter_num": iter_num})
        scaler.step(names["optimizer"])
        scaler.update()
        names["optimizer"].zero_grad(set_to_none=True)
    watch.check(range(STEPS), norm=grad_clip or None, seed=1337)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_accelerate(watch, accumulation):
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    batches = torch.utils.data.DataLoader(
        [(x[0], y[0]) for x, y in data(count=STEPS * accumulation * 4)], batch_size=4
    )
    exec(example("accelerate"), given(accelerator=accelerator, batches=batches))
    watch.check(range(STEPS))


# transformers.


class WithLoss(nn.Module):
    """As transformers' Trainer takes a model."""

    def __init__(self):
        super().__init__()
        self.layers = model()

    def forward(self, x, labels):
        output = self.layers(x)
        return {"loss": loss_function(output, labels), "logits": output}


def dataset(accumulation=1):
    rows = data(count=STEPS * accumulation)
    return [{"x": a, "labels": b} for x, y in rows for a, b in zip(x, y)]


def test_transformers(watch):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    exec(example("transformers"), {"model": WithLoss(), "dataset": dataset()})
    watch.check(range(STEPS))


def test_transformers_with_accumulation_bfloat16_and_a_resume(watch):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    arguments = transformers.TrainingArguments(
        "out",
        max_steps=STEPS,
        save_steps=3,
        gradient_accumulation_steps=2,
        bf16=True,
        use_cpu=True,
        report_to=[],
    )

    def train(**options):
        callbacks = [noise_callbacks.transformers_noise(SIGMA, seed=1)]
        trained = WithLoss()
        transformers.Trainer(trained, arguments, train_dataset=dataset(2), callbacks=callbacks).train(**options)
        return torch.cat([parameter.detach().flatten() for parameter in trained.parameters()])

    whole = train()
    resumed = train(resume_from_checkpoint="out/checkpoint-3")
    watch.check([*range(STEPS), *range(3, STEPS)])
    assert torch.equal(whole, resumed)


@pytest.mark.parametrize(
    ("options", "mend"),
    [
        ({"deepspeed": "zero2.json", "fp16": False, "max_grad_norm": 1.0}, "DeepSpeed"),
        ({"deepspeed": None, "fp16": True, "max_grad_norm": 0.0}, "max_grad_norm=1e9"),
    ],
)
def test_transformers_refuses_what_would_clip_or_scale_the_noise(options, mend):
    pytest.importorskip("transformers")
    callback = noise_callbacks.transformers_noise(SIGMA, seed=1)
    with pytest.raises(ValueError, match=mend):
        callback.on_train_begin(SimpleNamespace(**options), None, None, model=model())


# Lightning.


def module(lightning, fused=False, automatic=True):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layers, self.automatic_optimization = model(), automatic

        def training_step(self, batch, number):
            return loss_function(self.layers(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=fused)

    return Module()


def loader(batches):
    rows = [(a, b) for x, y in batches for a, b in zip(x, y)]
    return torch.utils.data.DataLoader(rows, batch_size=8)


QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.mark.filterwarnings("ignore")
def test_lightning(watch):
    lightning = pytest.importorskip("lightning.pytorch")
    exec(example("Lightning"), {"model": module(lightning), "batches": loader(data(count=4))})
    watch.check(range(STEPS))


@pytest.mark.filterwarnings("ignore")
def test_lightning_with_accumulation_float16_and_a_resume(watch):
    lightning = pytest.importorskip("lightning.pytorch")

    def train(**options):
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        precision = lightning.plugins.MixedPrecision("16-mixed", "cpu", scaler=scaler)
        saved = lightning.callbacks.ModelCheckpoint("saved", "{step}", save_top_k=-1, every_n_train_steps=3)
        callbacks = [saved, noise_callbacks.lightning_noise(SIGMA, seed=1, clip=1.0)]
        trainer = lightning.Trainer(
            max_steps=STEPS, accumulate_grad_batches=2, plugins=[precision], callbacks=callbacks, **QUIET
        )
        trainer.fit(trained := module(lightning), loader(batches), **options)
        return torch.cat([parameter.detach().flatten() for parameter in trained.parameters()])

    batches = data(count=1) * 2 * STEPS  # all alike: a resume begins its loader anew
    whole = train()
    resumed = train(ckpt_path="saved/step=3.ckpt")
    watch.check([*range(STEPS), *range(3, STEPS)])
    assert torch.equal(whole, resumed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["gradient_clip_val", "configure_gradient_clipping", "manual", "fused"])
def test_lightning_refuses_what_would_clip_or_scale_the_noise(watch, how):
    lightning = pytest.importorskip("lightning.pytorch")
    options, a_module = {}, module(lightning, fused=how == "fused", automatic=how != "manual")
    if how == "gradient_clip_val":
        options["gradient_clip_val"] = 1.0
    if how == "configure_gradient_clipping":
        type(a_module).configure_gradient_clipping = lambda self, *_, **__: None
    if how == "fused":
        scaler = torch.amp.GradScaler("cpu")
        options["plugins"] = [lightning.plugins.MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    trainer = lightning.Trainer(
        max_epochs=1, callbacks=[noise_callbacks.lightning_noise(SIGMA, seed=1)], **options, **QUIET
    )
    mends = {"manual": "training_step", "fused": "fused=False"}
    with pytest.raises(ValueError, match=mends.get(how, "`clip`")):
        trainer.fit(a_module, loader(data()))
    assert not watch.steps


def test_a_module_of_the_older_lightning_is_told_so():
    pytest.importorskip("lightning.pytorch")
    with pytest.raises(ValueError, match=r"import lightning\.pytorch"):
        noise_callbacks.lightning_noise(SIGMA, seed=1, clip=1.0).on_train_start(None, object())


def test_offloaded_parameters_are_refused():
    """FSDP2's CPUOffloadPolicy: the shard lies on the CPU, and its mesh is of cards."""
    one = model()
    next(one.parameters()).device_mesh = SimpleNamespace(device_type="cuda")
    with pytest.raises(ValueError, match="offloaded to the cpu"):
        GradientNoise(one.named_parameters(), SIGMA, seed=1)


def test_the_callbacks_are_imported_without_the_trainers():
    tree = ast.parse(Path(noise_callbacks.__file__).read_text())
    assert [node.module for node in tree.body if isinstance(node, ast.ImportFrom)] == ["noise"]
    assert not any(isinstance(node, ast.Import) for node in tree.body)


# Several processes: real ones, over gloo on this machine's loopback.


@pytest.mark.parametrize("name", ["DDP", "FSDP2"])
def test_each_rank_steps_with_the_noise_of_one_process(watch, pair, tmp_path, name):
    statuses, _, said = pair(["-m", "tests.test_integrations", name, str(tmp_path)]).end()
    assert statuses == [0, 0], said
    for rank in range(2):
        watch.steps, watch.given, watch.used = torch.load(tmp_path / f"rank{rank}.pt")
        watch.check(range(STEPS))


def test_sharded_gradients_are_scaled_and_measured_as_a_whole_and_fsdp1_is_refused(pair, tmp_path):
    statuses, _, said = pair(["-m", "tests.test_integrations", "scales", str(tmp_path)]).end()
    assert statuses == [0, 0], said


def scales():
    """Run on each rank: every scale and the norm, against the unsharded model's."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    whole, sharded = model(), model()
    fully_shard(sharded[0])
    fully_shard(sharded)
    for scale in noise.SCALES:
        found = []
        for one in (whole, sharded):
            one.zero_grad()
            loss_function(one(data()[0][0]), data()[0][1]).backward()
            norm = GradientNoise(one.named_parameters(), SIGMA, seed=1, scale=scale).add_(0, norm=True)
            found.append(
                [norm, *(getattr(p.grad, "full_tensor", lambda p=p: p.grad)() for p in one.parameters())]
            )
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
    for kept in (True, False):
        flat = FullyShardedDataParallel(model(), use_orig_params=kept, device_id=torch.device("cpu"))
        with pytest.raises(ValueError, match="fully_shard"):
            GradientNoise(flat.named_parameters(), SIGMA, seed=1)
    one = model()
    noise_ = GradientNoise(one.named_parameters(), SIGMA, seed=1)
    flat = FullyShardedDataParallel(one, use_orig_params=True, device_id=torch.device("cpu"))
    flat(data()[0][0]).sum().backward()
    with pytest.raises(ValueError, match="fully_shard"):
        noise_.add_(0)


def main(name, folder):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    if name == "scales":
        scales()
    else:
        watch = Watch(setattr)
        exec(example(name), given(batches=data(rank)))
        torch.save((watch.steps, watch.given, watch.used), Path(folder) / f"rank{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
