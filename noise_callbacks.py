"""GradientNoise as a callback of other trainers. Copy this file with noise.py; it needs the one trainer alone.

The noise comes once an optimizer step, between clipping and the step, and t is the trainer's global step, over
epochs and resumes. The arguments are GradientNoise's: sigma, seed, and by name distribution, scale, where and
anticorrelated. ValueError, before the first step, where the trainer would clip or scale the noise.
"""

from noise import GradientNoise


def transformers_noise(sigma, seed, **options):
    """A callback for transformers' Trainer, which clips before `on_pre_optimizer_step`."""
    from transformers import TrainerCallback

    if not hasattr(TrainerCallback, "on_pre_optimizer_step"):
        raise ValueError("this transformers has no on_pre_optimizer_step: install a newer one")

    class Noise(TrainerCallback):
        def on_train_begin(self, args, state, control, model, **_):
            if args.deepspeed:
                raise ValueError("DeepSpeed clips in its own step, after the noise: train without it")
            if args.fp16 and not args.max_grad_norm:
                raise ValueError("fp16 without clipping may leave the loss scale in: set max_grad_norm=1e9")
            self.noise = GradientNoise(model.named_parameters(), sigma, seed, **options)

        def on_pre_optimizer_step(self, args, state, control, **_):
            self.noise.add_(state.global_step)

    return Noise()


def lightning_noise(sigma, seed, clip=None, **options):
    """A callback for Lightning's Trainer, which clips *after* `on_before_optimizer_step`.

    clip: the norm to which it clips, before the noise, in place of the Trainer's gradient_clip_val.
    """
    from lightning.pytorch import Callback, LightningModule

    class Noise(Callback):
        def on_train_start(self, trainer, pl_module):
            if not isinstance(pl_module, LightningModule):
                raise ValueError("the module is pytorch_lightning's: import lightning.pytorch in its place")
            own_clipping = type(pl_module).configure_gradient_clipping
            if trainer.gradient_clip_val or own_clipping is not LightningModule.configure_gradient_clipping:
                raise ValueError("the trainer clips after the noise: give `clip` to lightning_noise instead")
            if not pl_module.automatic_optimization:
                raise ValueError("manual optimization: add the noise in training_step, after clipping")
            scaler = getattr(trainer.precision_plugin, "scaler", None)
            if scaler and any(getattr(o, "_step_supports_amp_scaling", False) for o in trainer.optimizers):
                raise ValueError("this optimizer divides the noise by the loss scale: make it with fused=False")
            self.noise = GradientNoise(pl_module.named_parameters(), sigma, seed, **options)

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if clip:
                pl_module.clip_gradients(optimizer, clip, "norm")
            self.noise.add_(trainer.global_step)

    return Noise()
