"""Diffusion features against the plain way of computing them."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from lcpdn_pl.backbones.denoisers import create_denoiser
from lcpdn_pl.backbones.diffusion import ALPHA_BAR, DiffusionFeatures
from lcpdn_pl.backbones.store import FeatureStore
from lcpdn_pl.backbones.weights import random_unet
from lcpdn_pl.errors import ConfigError

BLOCKS, STEPS = [1, 2, 4], [50, 150, 250]


@pytest.fixture
def unet(tiny_denoiser: str) -> UNet2DModel:
    return create_denoiser(tiny_denoiser)[0]


def image() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def prompt() -> Tensor:
    return torch.randn(2, 32, generator=torch.Generator().manual_seed(2)).requires_grad_()


def plain_features(unet: UNet2DModel, prompt: Tensor | None, noise: Tensor) -> list[Tensor]:
    """The whole network, one step at a time, with hooks on what ends each decoder block."""
    ends: list[nn.Module] = []
    for level in unet.up_blocks:
        count = len(level.resnets)
        for index in range(count):
            attentions = getattr(level, "attentions", None)
            end = attentions[index] if attentions else level.resnets[index]
            if index == count - 1 and level.upsamplers is not None:
                end = level.upsamplers[0]
            ends.append(end)
    parts: list[list[Tensor]] = [[] for _ in BLOCKS]
    hooks = [
        ends[block].register_forward_hook(lambda _m, _i, out, part=part: part.append(out))
        for block, part in zip(BLOCKS, parts, strict=True)
    ]
    if prompt is not None:
        added = prompt
        hooks.append(unet.time_embedding.register_forward_hook(lambda _m, _i, out: out + added))
    for step in STEPS:
        rate = torch.prod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)[: step + 1])
        noised = rate.sqrt().float() * image() + (1 - rate).sqrt().float() * noise
        unet(F.pixel_unshuffle(noised, 2), step)
    for hook in hooks:
        hook.remove()
    return [torch.cat(part, dim=1) for part in parts]


def test_alpha_bar_is_the_running_product() -> None:
    product = 1.0
    for t in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        if t in (0, 50, 150, 250, 999):
            assert ALPHA_BAR[t].item() == pytest.approx(product)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"step_batch": 1},
        {"step_batch": 2},
        {"gradient_checkpointing": True},
        {"compile": True, "gradient_checkpointing": True},
    ],
)
def test_features_and_prompt_gradient_equal_the_plain_way(
    unet: UNet2DModel, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Captures the same graph as the default backend, without minutes of C++ compilation.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    ours, theirs = prompt(), prompt()
    expected = plain_features(unet.eval(), theirs, noise)
    features = DiffusionFeatures(unet, BLOCKS, STEPS, noise=noise, **options)(image(), ours)
    for found, wanted in zip(features, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.stack([part.square().mean() for part in features]).sum().backward()
    torch.stack([part.square().mean() for part in expected]).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert ours.grad.norm() > 0
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)
    assert all(p.grad is None for p in unet.parameters())


def test_resampling_convolutions_are_not_conditioned() -> None:
    unet = UNet2DModel(
        in_channels=12,
        out_channels=12,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = plain_features(unet, prompt(), noise)
        features = DiffusionFeatures(unet, BLOCKS, STEPS, noise=noise)(image(), prompt())
    for found, wanted in zip(features, expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_class_conditioned_denoisers_are_refused(unet: UNet2DModel) -> None:
    conditioned = UNet2DModel.from_config(unet.config, num_class_embeds=10)
    with pytest.raises(ConfigError, match="on classes"):
        DiffusionFeatures(conditioned, BLOCKS, STEPS)


def test_autocast_rounds_and_no_more(unet: UNet2DModel) -> None:
    features = DiffusionFeatures(unet, BLOCKS, STEPS)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = features(image())
    for found, wanted in zip(rounded, features(image()), strict=True):
        assert found.dtype == torch.bfloat16
        assert (found.float() - wanted).norm() < 0.02 * wanted.norm()


class TestStore:
    """Features that come again are read, and are the same numbers."""

    def test_second_pass_reads_what_the_first_computed(
        self, unet: UNet2DModel, tmp_path: Path
    ) -> None:
        plain = DiffusionFeatures(unet, BLOCKS, STEPS)(image())
        store = FeatureStore(tmp_path)
        features = DiffusionFeatures(unet, BLOCKS, STEPS, store=store)
        for _ in range(2):
            for found, wanted in zip(features(image()), plain, strict=True):
                assert torch.equal(found, wanted)
        assert (store.hits, store.misses) == (2, 2)

    def test_only_what_is_missing_is_computed(self, unet: UNet2DModel, tmp_path: Path) -> None:
        features = DiffusionFeatures(unet, BLOCKS, STEPS, store=FeatureStore(tmp_path))
        features(image()[1:])
        computed: list[Tensor] = []
        features.conv_in.register_forward_hook(lambda _m, inputs, _o: computed.append(*inputs))
        both = features(image())
        assert [len(part) for part in computed] == [len(STEPS)]
        for found, wanted in zip(
            both, DiffusionFeatures(unet, BLOCKS, STEPS)(image()), strict=True
        ):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)

    def test_whatever_changes_features_changes_the_key(
        self, unet: UNet2DModel, tmp_path: Path
    ) -> None:
        store = FeatureStore(tmp_path)
        other = random_unet(unet.config, 1)
        noise = torch.randn(1, 3, 16, 16)
        with torch.no_grad():
            variants = [
                DiffusionFeatures(unet, BLOCKS, STEPS, store=store)(image()),
                DiffusionFeatures(other, BLOCKS, STEPS, store=store)(image()),
                DiffusionFeatures(unet, BLOCKS[1:], STEPS, store=store)(image()),
                DiffusionFeatures(unet, BLOCKS, STEPS[1:], store=store)(image()),
                DiffusionFeatures(unet, BLOCKS, STEPS, noise_seed=1, store=store)(image()),
                DiffusionFeatures(unet, BLOCKS, STEPS, noise=noise, store=store)(image()),
                DiffusionFeatures(unet, BLOCKS, STEPS, store=store)(image(), prompt()),
                DiffusionFeatures(unet, BLOCKS, STEPS, store=store)(image().flip(-1)),
            ]
            with torch.autocast("cpu", torch.bfloat16):
                variants.append(DiffusionFeatures(unet, BLOCKS, STEPS, store=store)(image()))
        assert (store.hits, store.misses) == (0, 2 * len(variants))

    def test_prompts_in_half_precision_are_told_apart(
        self, unet: UNet2DModel, tmp_path: Path
    ) -> None:
        store = FeatureStore(tmp_path)
        features = DiffusionFeatures(unet, BLOCKS, STEPS, store=store)
        half = prompt().detach().bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            plain = DiffusionFeatures(unet, BLOCKS, STEPS)(image(), half)
            for _ in range(2):
                for found, wanted in zip(features(image(), half), plain, strict=True):
                    assert torch.equal(found, wanted)
            features(image(), -half)
        assert (store.hits, store.misses) == (2, 4)

    def test_prompts_that_need_a_gradient_are_never_stored(
        self, unet: UNet2DModel, tmp_path: Path
    ) -> None:
        store = FeatureStore(tmp_path)
        DiffusionFeatures(unet, BLOCKS, STEPS, store=store)(image(), prompt())
        assert (store.hits, store.misses, list(tmp_path.iterdir())) == (0, 0, [])


def test_without_prompt_nothing_needs_a_gradient(unet: UNet2DModel) -> None:
    features = DiffusionFeatures(unet, BLOCKS, STEPS, noise_seed=5)
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    found = features(image())
    assert not any(part.requires_grad for part in found)
    for part, wanted in zip(found, plain_features(unet, None, noise), strict=True):
        torch.testing.assert_close(part, wanted, atol=1e-5, rtol=1e-5)


def test_one_noise_for_all_images(unet: UNet2DModel) -> None:
    features = DiffusionFeatures(unet, BLOCKS, STEPS)
    twice = image()[:1].repeat(2, 1, 1, 1)
    for part in features(twice):
        torch.testing.assert_close(part[0], part[1])
    other = DiffusionFeatures(unet, BLOCKS, STEPS, noise_seed=1)
    assert (features(twice)[0] - other(twice)[0]).abs().max() > 1e-3


def test_attributes_say_what_comes_out(unet: UNet2DModel) -> None:
    whole = sum(p.numel() for p in unet.parameters())
    features = DiffusionFeatures(unet, [1, 2], STEPS).train()
    assert not features.training
    assert (features.divisor, features.prompt_channels, features.patch) == (8, 32, 2)
    assert [part.shape[1] for part in features(image())] == features.channels == [48, 24]
    every = DiffusionFeatures(create_denoiser("lcpdn-ddpm-small")[0], range(18), [50])
    sides = [part.shape[-1] for part in every(torch.zeros(1, 3, 128, 128))]
    assert [128 // side for side in sides] == every.strides
    assert set(every.strides) >= {2, 4, 8, 16, 32}
    assert sum(p.numel() for p in features.parameters()) < whole


def test_a_prompt_scales_and_shifts_what_every_block_gives(unet: UNet2DModel) -> None:
    features = DiffusionFeatures(unet, BLOCKS, STEPS, prompt_injection="scale_shift")
    blocks = [*features.input_blocks, features.mid_block, *features.output_blocks]
    given: list[Tensor] = []
    for block in blocks:
        block.register_forward_hook(lambda _m, _i, output: given.append(output))
    plain = features(image())
    widths = [output.shape[1] for output in given]
    assert features.prompt_channels == 2 * sum(widths)
    zero = torch.zeros(2, features.prompt_channels)
    for found, wanted in zip(features(image(), zero), plain, strict=True):
        assert torch.equal(found, wanted)

    # Only the last block's part of the prompt is not 0.
    scale, shift = torch.randn(2, 2, widths[-1], generator=torch.Generator().manual_seed(0))
    last = torch.cat([zero[:, : -2 * widths[-1]], scale, shift], dim=1).requires_grad_()
    found = features(image(), last)
    wanted = plain[-1].unflatten(1, (len(STEPS), -1)) * (1 + scale[:, None, :, None, None])
    wanted = (wanted + shift[:, None, :, None, None]).flatten(1, 2)
    torch.testing.assert_close(found[-1], wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(found[0], plain[0])
    found[-1].square().mean().backward()
    assert last.grad is not None
    parts = last.grad.split([2 * width for width in widths], dim=1)
    assert all(part.abs().max() > 0 for part in parts)


@pytest.mark.parametrize(
    ("blocks", "steps", "message"),
    [
        ([2, 1], [50], r"blocks=\[2, 1\].*0 to 5"),
        ([6], [50], r"blocks=\[6\].*0 to 5"),
        ([], [50], r"blocks=\[\]"),
        ([1], [1000], r"steps=\[1000\].*0 and 999"),
        ([1], [], r"steps=\[\]"),
    ],
)
def test_bad_settings(unet: UNet2DModel, blocks: list[int], steps: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionFeatures(unet, blocks, steps)


def test_bad_image_size_names_the_size_to_use(unet: UNet2DModel) -> None:
    with pytest.raises(ValueError, match=r"20 x 16.*multiples of 8.*24 x 16"):
        DiffusionFeatures(unet, BLOCKS, STEPS)(torch.zeros(1, 3, 20, 16))


def test_noised_follows_its_equation(unet: UNet2DModel) -> None:
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    noised = DiffusionFeatures(unet, BLOCKS, STEPS, noise=noise).noised(
        image(), torch.tensor([0.25, 0.81])
    )
    assert noised.shape == (2, 2, 3, 16, 16)
    torch.testing.assert_close(noised[0], 0.5 * image() + math.sqrt(0.75) * noise)
    torch.testing.assert_close(noised[1], 0.9 * image() + math.sqrt(0.19) * noise)


def test_uneven_step_batches_change_nothing(unet: UNet2DModel) -> None:
    ours, theirs = prompt(), prompt()
    wanted = DiffusionFeatures(unet, BLOCKS, STEPS)(image(), theirs)
    features = DiffusionFeatures(unet, BLOCKS, STEPS, step_batch=2, gradient_checkpointing=True)
    found = features.train()(image(), ours)
    for part, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(part, other, atol=1e-5, rtol=1e-5)
    torch.stack([part.square().mean() for part in found]).sum().backward()
    torch.stack([part.square().mean() for part in wanted]).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)
    assert all(p.grad is None and not p.requires_grad for p in features.parameters())
