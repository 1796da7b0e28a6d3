"""Pretraining: its loss, its draws, its average, its rate and its samples, each written out."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from lightning import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lcpdn_pl.errors import ConfigError, RunError, WeightsError
from lcpdn_pl.tasks import DenoisingTask
from lcpdn_pl.tasks.base import BAD_BATCH
from tests.conftest import quiet_trainer


@pytest.fixture
def task(tiny_denoiser: str) -> DenoisingTask:
    return DenoisingTask(tiny_denoiser)


def abar(step: int) -> float:
    product = 1.0
    for t in range(step + 1):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
    return product


def folded(image: Tensor) -> Tensor:
    """Each 2 x 2 patch in the channels, written out."""
    parts = [image[:, c, i::2, j::2] for c in range(3) for i in (0, 1) for j in (0, 1)]
    return torch.stack(parts, dim=1)


def images(count: int, side: int = 16, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def loader(*batches: Tensor) -> DataLoader[Tensor]:
    return DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_ends_the_run(task: DenoisingTask, tmp_path: Path) -> None:
    broken = torch.full((1, 3, 16, 16), torch.nan)
    for train, val, step in ((broken, images(1), 0), (images(1), broken, 1)):
        trainer = quiet_trainer(tmp_path, max_epochs=1)
        with pytest.raises(RunError, match=rf"loss of step {step} is nan: expected a finite"):
            trainer.fit(task, loader(train), loader(val))
    assert torch.load(tmp_path / BAD_BATCH, weights_only=True).isnan().all()


def test_loss_is_the_equation_written_out(task: DenoisingTask) -> None:
    image, steps = images(4), [0, 50, 400, 999]
    found = task.noise_loss(task.unet, image, torch.tensor(steps), torch.Generator().manual_seed(7))
    noise = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    wanted = []
    for x, eps, step in zip(image, noise, steps, strict=True):
        noised = math.sqrt(abar(step)) * x + math.sqrt(1 - abar(step)) * eps
        predicted = task.unet(folded(noised[None]), step).sample
        wanted.append((predicted - folded(eps[None])).pow(2).mean())
    assert found.shape == (4,)
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-5, atol=1e-6)


def test_both_are_trained_and_averaged_alike_at_first(
    task: DenoisingTask, tiny_denoiser: str
) -> None:
    assert all(p.requires_grad for p in task.unet.parameters())
    assert not any(p.requires_grad for p in task.ema.parameters())
    given = UNet2DModel.from_pretrained(tiny_denoiser).state_dict()
    for key, value in given.items():
        assert torch.equal(task.unet.state_dict()[key], value)
        assert torch.equal(task.ema.module.state_dict()[key], value)
    count = sum(value.numel() for value in given.values())
    assert task.describe() == {"denoiser": tiny_denoiser, "parameters": f"{count:,} trainable"}
    assert task.method == "ddpm"


def test_average_follows_its_recurrence(
    tiny_denoiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LightningModule, "optimizer_step", lambda *_: None)
    task = DenoisingTask(tiny_denoiser, ema_decay=0.28)
    averaged = task.ema.get_parameter("module.conv_in.weight")
    wanted = torch.zeros(())
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        weight = torch.randn(averaged.shape, generator=generator)
        with torch.no_grad():
            task.unet.conv_in.weight.copy_(weight)
        task.optimizer_step(0, step, None)
        # The first weights are taken as they are; 2/11 and 3/12 are below 0.28, 4/13 is not.
        decay = [0, 2 / 11, 3 / 12, 0.28, 0.28, 0.28][step]
        wanted = decay * wanted + (1 - decay) * weight
        torch.testing.assert_close(averaged, wanted, rtol=1e-5, atol=1e-6)
        assert torch.equal(task.unet.conv_in.weight, weight)


def spied(task: DenoisingTask, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Replaces the loss by a cheap one that keeps timesteps and noise of each training step."""
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(unet: nn.Module, image: Tensor, step: Tensor, generator: torch.Generator) -> Tensor:
        seen.append((step, torch.randn(image.shape, generator=generator)))
        weight = next(unet.parameters())
        return weight.sum() + torch.zeros(len(image))

    monkeypatch.setattr(task, "noise_loss", keep)
    return seen


def drawn(
    denoiser: str, monkeypatch: pytest.MonkeyPatch, seed: int, *sizes: int, **options: Any
) -> list[tuple[Tensor, Tensor]]:
    """What two epochs over batches of these sizes draw."""
    task = DenoisingTask(denoiser, **options)
    seen = spied(task, monkeypatch)
    torch.manual_seed(seed)
    batches = loader(*(torch.zeros(size, 3, 4, 4) for size in sizes))
    quiet_trainer(Path(), max_epochs=2).fit(task, batches)
    return seen


def test_draws_depend_on_seed_epoch_and_batch_alone(
    tiny_denoiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = drawn(tiny_denoiser, monkeypatch, 3, 5, 5)
    assert len(first) == 4
    assert len({tuple(steps.tolist()) for steps, _ in first}) == 4  # 2 epochs of 2 batches
    assert len({noise.sum().item() for _, noise in first}) == 4
    # Smaller batches before draw less, and random numbers are spent elsewhere: no matter.
    monkeypatch.setattr(
        DenoisingTask, "on_train_batch_start", lambda *_: torch.rand(7).numel() and None
    )
    again = drawn(tiny_denoiser, monkeypatch, 3, 2, 5)
    for index in (1, 3):
        assert torch.equal(again[index][0], first[index][0])
        assert torch.equal(again[index][1], first[index][1])
    other = drawn(tiny_denoiser, monkeypatch, 4, 5, 5)
    assert not any(torch.equal(one[1], two[1]) for one, two in zip(first, other, strict=True))


def test_timesteps_are_uniform_over_all_thousand(
    tiny_denoiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, noise = drawn(tiny_denoiser, monkeypatch, 0, 20_000)[0]
    assert (steps.min().item(), steps.max().item()) == (0, 999)
    counts = torch.bincount(steps // 100, minlength=10)
    assert counts.tolist() == pytest.approx([2000] * 10, abs=180)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)


def test_timesteps_of_power_two_are_squares_of_uniform_draws(
    tiny_denoiser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, _ = drawn(tiny_denoiser, monkeypatch, 0, 20_000, timestep_power=2.0)[0]
    assert (steps.min().item(), steps.max().item()) == (0, 999)
    for bound in (10, 100, 250, 640):
        assert (steps < bound).float().mean().item() == pytest.approx(
            (bound / 1000) ** 0.5, abs=0.01
        )


def test_rate_rises_linearly_and_falls_as_a_cosine_to_zero(
    tiny_denoiser: str, tmp_path: Path
) -> None:
    rates = []

    class Noting(DenoisingTask):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    task = Noting(
        tiny_denoiser, optimizer=lambda params: torch.optim.SGD(params, lr=0.08), warmup_steps=4
    )
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(task, loader(*images(6)[:, None]))
    rise = [0.08 * step / 4 for step in range(4)]
    fall = [0.04 * (1 + math.cos(math.pi * step / 8)) for step in range(9)]
    assert rates == pytest.approx((rise + fall)[:12])
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(fall[-1], abs=1e-12)
    assert fall[0] == max(rates) == pytest.approx(0.08)


def test_training_lowers_the_held_out_loss(tiny_denoiser: str, tmp_path: Path) -> None:
    task = DenoisingTask(
        tiny_denoiser,
        optimizer=lambda params: torch.optim.Adam(params, lr=1e-2),
        warmup_steps=5,
        ema_decay=0.9,
    )
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    plain = torch.ones(8, 3, 8, 8) * torch.tensor([0.5, -0.5, 0.0]).view(3, 1, 1)
    (before,) = trainer.validate(task, loader(plain), verbose=False)
    trainer.fit(task, loader(*(plain,) * 40))
    (after,) = trainer.validate(task, loader(plain), verbose=False)
    assert before["val/loss"] > 0.95
    assert after["val/loss"] < 0.85 * before["val/loss"]


def test_held_out_losses_are_those_of_the_average_and_of_the_same_draws(
    task: DenoisingTask, tmp_path: Path
) -> None:
    trainer = quiet_trainer(tmp_path)
    batches = loader(images(3), images(2, seed=2))
    (first,) = trainer.validate(task, batches, verbose=False)
    with torch.no_grad():
        for parameter in task.unet.parameters():
            parameter.add_(1)
    torch.rand(5)
    (again,) = trainer.validate(task, batches, verbose=False)
    assert first == again
    ranges = [(0, 100), (100, 300), (300, 600), (600, 1000)]
    wanted = dict.fromkeys(ranges, 0.0)
    for index, image in enumerate((images(3), images(2, seed=2))):
        generator = torch.Generator().manual_seed(index)
        for first_step, end in ranges:
            steps = torch.randint(first_step, end, (len(image),), generator=generator)
            loss = task.noise_loss(task.ema.module, image, steps, generator).sum().item() / 5
            wanted[first_step, end] += loss
    for (first_step, end), loss in wanted.items():
        name = f"val/loss_{first_step:03d}_{end - 1:03d}"
        assert first[name] == pytest.approx(loss, rel=1e-5)
    assert first["val/loss"] == pytest.approx(sum(wanted.values()) / 4, rel=1e-5)
    assert len(first) == 5


def configured(folder: Path, tiny_denoiser: str, **changes: object) -> str:
    config = json.loads(Path(tiny_denoiser, "config.json").read_text()) | changes
    path = folder / "denoiser.json"
    path.write_text(json.dumps(config))
    return str(path)


def test_learned_variance_is_refused(tiny_denoiser: str, tmp_path: Path) -> None:
    name = configured(tmp_path, tiny_denoiser, out_channels=24)
    with pytest.raises(ConfigError, match=r"maps 12 channels to 24.*learned variance"):
        DenoisingTask(name)
    with pytest.raises(WeightsError, match="Unknown denoiser"):
        DenoisingTask(str(tmp_path / "nowhere.json"))


def test_denoiser_without_patches_is_trained_too(tiny_denoiser: str, tmp_path: Path) -> None:
    name = configured(tmp_path, tiny_denoiser, in_channels=3, out_channels=3)
    task = DenoisingTask(name)
    steps = torch.tensor([10, 20])
    found = task.noise_loss(task.unet, images(2), steps, torch.Generator().manual_seed(0))
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rate = torch.tensor([abar(10), abar(20)]).view(2, 1, 1, 1)
    predicted = task.unet(rate.sqrt() * images(2) + (1 - rate).sqrt() * noise, steps).sample
    torch.testing.assert_close(found, (predicted - noise).square().mean(dim=(1, 2, 3)))
    assert task.sample(1, 16, num_steps=2).shape == (1, 3, 16, 16)


def test_sampling_finds_the_image_of_a_perfect_denoiser(
    task: DenoisingTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, steps = images(2), []

    def perfect(noised: Tensor, step: Tensor) -> Any:
        steps.append(int(step))
        rate = abar(int(step))
        noise = (noised - math.sqrt(rate) * folded(target)) / math.sqrt(1 - rate)
        return SimpleNamespace(sample=noise)

    monkeypatch.setattr(task.ema.module, "forward", perfect)
    torch.testing.assert_close(task.sample(2, 16), target, atol=1e-4, rtol=0)
    assert steps == list(range(999, 0, -20))
    steps.clear()
    torch.testing.assert_close(task.sample(2, 16, num_steps=4), target, atol=1e-4, rtol=0)
    assert steps == [999, 749, 499, 249]


def test_samples_follow_ddim_written_out(task: DenoisingTask) -> None:
    with torch.no_grad():  # the training's own weights make no difference
        for parameter in task.unet.parameters():
            parameter.add_(1)
    found = task.sample(2, 16, num_steps=4, seed=3)
    assert not found.requires_grad
    assert torch.equal(task.sample(2, 16, num_steps=4, seed=3), found)
    assert not torch.equal(task.sample(2, 16, num_steps=4, seed=4), found)

    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    x = folded(noise)
    for step, following in ((999, 749), (749, 499), (499, 249), (249, None)):
        rate = abar(step)
        with torch.no_grad():
            predicted = task.ema.module(x, step).sample
        clean = ((x - math.sqrt(1 - rate) * predicted) / math.sqrt(rate)).clamp(-1, 1)
        after = 1.0 if following is None else abar(following)
        x = math.sqrt(after) * clean + math.sqrt(1 - after) * predicted
    torch.testing.assert_close(folded(found), x, atol=1e-4, rtol=1e-4)
    assert found.abs().max() <= 1
