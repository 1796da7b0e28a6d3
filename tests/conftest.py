"""Tiny data and tiny backbones, of the same classes and layouts as the real ones."""

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from transformers import BertConfig, BertModel, BertTokenizer

if "PYTEST_XDIST_WORKER" in os.environ:  # there are as many of them as cores
    torch.set_num_threads(1)

for variable in ("LCPDN_DATA_ROOT", "LCPDN_WEIGHTS", "LCPDN_ALLOW_CODE", "LCPDN_RUN_FOLDER"):
    os.environ.pop(variable, None)  # the user's folders are none of the tests'

REAL_DATA = Path(__file__).parents[2] / "shared" / "datasets"

TreeMaker = Callable[..., Path]


def write_images(folder: Path, count: int, size: int = 40, suffix: str = ".png") -> Path:
    """Writes seeded images ``image_00``, ``image_01``... of smooth colours; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        colours = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        colours.resize((size, size), Image.Resampling.BICUBIC).save(
            folder / f"image_{index:02}{suffix}"
        )
    return folder


@contextmanager
def interruptible() -> Iterator[None]:
    """Hears Ctrl-C, which tests that were started in the background may ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def quiet_trainer(root: Path, **options: Any) -> lightning.Trainer:
    """A trainer on the CPU that writes and prints nothing by itself."""
    remarks = (
        r"`isinstance\(treespec, LeafSpec\)`",
        r"The '\w+' does not have many workers",
        r"You defined a `validation_step` but have no `val_dataloader`",
    )
    for remark in remarks:
        warnings.filterwarnings("ignore", remark)
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "default_root_dir": root,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return lightning.Trainer(**(quiet | options))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets, which lie beside the project where it is developed."""
    if not REAL_DATA.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{REAL_DATA} is missing, but CI tests on real images")
        pytest.skip("the real images are not beside the project")
    return REAL_DATA


@pytest.fixture(scope="session")
def tiny_denoiser(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random UNet2DModel: 3 levels, 6 decoder blocks, patches of 2 x 2."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("denoiser")
    UNet2DModel(
        in_channels=12,
        out_channels=12,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
        upsample_type="resnet",
        downsample_type="resnet",
        flip_sin_to_cos=True,
        freq_shift=0,
        attention_head_dim=4,
        norm_num_groups=4,
        attn_norm_num_groups=4,
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a random BERT, 16 wide, with a tokenizer of letters and a few words."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bert")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = ["left", "right", "upper", "lower", "lung", "nuclei", "round", "one", "two"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters]
    vocabulary = [*pieces, *(f"##{letter}" for letter in letters), ".", ","]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tiny_network(tiny_denoiser: str, tiny_bert: str) -> dict[str, object]:
    """Arguments of a small LCPDN."""
    return {
        "denoiser": tiny_denoiser,
        "text_encoder": tiny_bert,
        "blocks": (1, 3, 4),
        "steps": (50, 250),
        "prompt_width": 16,
        "width": 8,
        "head_widths": (8, 8),
    }


@pytest.fixture(scope="session")
def make_tree() -> TreeMaker:
    """Writes a seeded tree in LViT's layout and returns its root.

    ``make_tree(root, counts=(4, 2, 3), size=40, values=(0, 255), mask_prefix="")``: grey-ish RGB
    images whose bright disc is the mask, with a report that names its side.
    """

    def make(
        root: Path,
        counts: tuple[int, int, int] = (4, 2, 3),
        size: int = 40,
        values: tuple[int, int] = (0, 255),
        mask_prefix: str = "",
    ) -> Path:
        rng = np.random.default_rng(0)
        rows, columns = np.mgrid[:size, :size]
        for split, count in zip(("Train", "Val", "Test"), counts, strict=True):
            folder = root / f"{split}_Folder"
            (folder / "img").mkdir(parents=True)
            (folder / "labelcol").mkdir()
            table = []
            for index in range(count):
                side = "left" if index % 2 else "right"
                center = size * (0.25 if side == "left" else 0.75), size * rng.uniform(0.3, 0.7)
                disc = np.hypot(columns - center[0], rows - center[1]) < size / 6
                image = rng.integers(0, 80, (size, size, 3)) + 150 * disc[..., None]
                name = f"{split.lower()}_{index}.png"
                Image.fromarray(image.astype(np.uint8)).save(folder / "img" / name)
                mask = np.where(disc, values[1], values[0]).astype(np.uint8)
                Image.fromarray(mask).save(folder / "labelcol" / f"{mask_prefix}{name}")
                text = f"One round nuclei, {side} lung."
                table.append({"Image": f"{mask_prefix}{name}", "Description": text})
            pd.DataFrame(table).to_csv(folder / f"{split}_text.csv", index=False)
        return root

    return make
