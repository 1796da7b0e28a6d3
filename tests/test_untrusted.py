"""Files that came from elsewhere: none runs code, none is written where it should not be.

Code that runs leaves a canary, a folder. What is promised of archives, cache entries, reports and
checksums is tested beside their modules; SECURITY.md lists everything.
"""

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
import torch
import yaml
from diffusers import UNet2DModel
from PIL import Image, ImageFile
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

import lcpdn_pl
from lcpdn_pl.backbones.denoisers import create_denoiser
from lcpdn_pl.backbones.image import create_image_encoder
from lcpdn_pl.backbones.text import create_text_encoder
from lcpdn_pl.cli import main
from lcpdn_pl.commands.grid import read_grid
from lcpdn_pl.data.images import read_image, read_size
from lcpdn_pl.data.manifest import read_manifest
from lcpdn_pl.data.pictures import open_picture
from lcpdn_pl.data.report_tables import MOST_BYTES, read_reports
from lcpdn_pl.errors import CheckpointError, ConfigError, DataError, WeightsError
from lcpdn_pl.trust import ALLOW, restrict_imports
from tests.conftest import TreeMaker, write_images
from tests.data.pictures.test_dicom import compress
from tests.data.pictures.test_dicom import write as write_dicom
from tests.test_restore import run

__all__ = ["run"]  # the fixture; it makes tmp_path the working directory

EVIL = """
import os

os.mkdir({canary!r})


def call(*_):
    pass


class Class:
    def __init__(self, **_):
        pass
"""


class Bomb:
    """Makes the canary where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What code leaves that runs: that of a pickle, or of the module ``evil``."""
    monkeypatch.delenv(ALLOW, raising=False)
    restrict_imports([])
    path = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(EVIL.format(canary=str(path)))
    monkeypatch.syspath_prepend(tmp_path)
    yield path
    sys.modules.pop("evil", None)
    assert not path.exists()


def test_the_canary_would_sing(canary: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(canary)))  # noqa: S301 - the danger itself
    canary.rmdir()
    import evil  # type: ignore[import-not-found]

    evil.call()
    canary.rmdir()


# Checkpoints


def refused(*args: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(list(args))
    assert stopped.value.code != 0


def test_a_checkpoint_runs_no_code(run: Path, canary: Path) -> None:
    content = torch.load(run / "best.ckpt", weights_only=True)
    for name in ("best.ckpt", "last.ckpt"):
        torch.save({**content, "extra": Bomb(canary)}, run / name)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: expected a checkpoint of lcpdn fit"):
        lcpdn_pl.load(run / "last.ckpt")
    config = yaml.safe_load((run / "config.yaml").read_text())
    for weights_only in (None, False):  # a setting of Lightning's
        config["weights_only"] = weights_only
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        for command in ("validate", "test", "predict", "fit"):
            refused(command, "--ckpt_path", str(run / "best.ckpt"))
        refused("fit", "--ckpt_path", str(run))
    config["ckpt_path"] = str(run / "last.ckpt")
    (run.parent / "fit.yaml").write_text(yaml.safe_dump(config))
    refused("fit", "--config", "fit.yaml", "--run_folder=another")


def test_settings_in_a_checkpoint_name_no_code(run: Path, canary: Path) -> None:
    content = torch.load(run / "best.ckpt", weights_only=True)
    content["hyper_parameters"] = {"_class_path": "evil.Class", "_instantiator": "evil.call"}
    torch.save(content, run / "best.ckpt")
    lcpdn_pl.load(run / "best.ckpt")
    main(["test", "--ckpt_path", str(run / "best.ckpt")])
    assert not canary.exists()


def test_a_checkpoint_removes_nothing_but_a_checkpoint(run: Path) -> None:
    precious = Path("precious.ckpt")
    precious.mkdir()
    other = Path("other.ckpt")
    other.touch()
    content = torch.load(run / "last.ckpt", weights_only=True)
    for name in ("precious.ckpt", "other.ckpt"):
        for state in content["callbacks"].values():
            if "best_model_path" in state:
                state |= {"best_model_path": f"{run}/../{name}", "dirpath": "/elsewhere"}
        torch.save(content, run / "last.ckpt")
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["trainer"]["max_epochs"] += 1
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        main(["fit", "--ckpt_path", str(run / "last.ckpt")])
    assert precious.is_dir()
    assert other.is_file()


# Configurations and grids

CALLBACK = {
    "class_path": "lightning.pytorch.callbacks.LambdaCallback",
    "init_args": {"on_fit_start": "evil.call"},
}
MODEL = {"class_path": "SegmentationTask", "init_args": {"network": {"class_path": "Pixels"}}}


def changed(**settings: Any) -> dict[str, Any]:
    return {"model": MODEL, "data": {"class_path": "Phantom"}, **settings}


def model(**settings: Any) -> dict[str, Any]:
    init_args: dict[str, Any] = {**MODEL["init_args"], **settings}  # type: ignore[dict-item]
    return changed(model={"class_path": "SegmentationTask", "init_args": init_args})


CONFIGS = {
    "class": changed(model="evil.Class"),
    "callback": changed(trainer={"callbacks": [{"class_path": "evil.Class"}]}),
    "function": changed(trainer={"callbacks": [CALLBACK]}),
    "file of a section": changed(trainer="trainer_file"),
    "file of a class": changed(model="torch.yaml"),
    "file without a suffix": model(network="class_file"),
    "file in a list": changed(trainer={"callbacks": ["class_file"]}),
    "file of a name": model(optimizer="name_file"),
    "further configuration": changed(config="config_file"),
    "number": model(optimizer={"class_path": "torch.optim.Adam", "init_args": {"lr": "evil.call"}}),
    "schedule": model(
        lr_scheduler={
            "class_path": "torch.optim.lr_scheduler.LambdaLR",
            "init_args": {"lr_lambda": "evil.call"},
        }
    ),
    "anything": changed(model=MODEL | {"dict_kwargs": {"x": {"class_path": "evil.Class"}}}),
    "nested": {"fit": changed(model="evil.Class")},
}


@pytest.fixture
def files(tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files that a configuration may name, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("trainer_file").write_text("callbacks: [{class_path: evil.Class}]")
    for name in ("class_file", "torch.yaml"):
        Path(name).write_text("class_path: evil.Class")
    Path("name_file").write_text("evil.call")
    Path("config_file").write_text("model: evil.Class")
    assert not canary.exists()
    return tmp_path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_runs_no_code(name: str, files: Path) -> None:
    (files / "run.yaml").write_text(yaml.safe_dump(CONFIGS[name]))
    with suppress(SystemExit, AttributeError):  # the latter of jsonargparse: a section is a file
        main(["fit", "--config", "run.yaml", "--print_config"])
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (["--config", "settings.txt"], "settings.txt names code that would be imported"),
        (["--config=settings.txt"], "settings.txt names code that would be imported"),
        (["--model", "model.txt"], "model.txt names code that would be imported"),
    ],
)
def test_a_configuration_of_any_name_runs_no_code(
    argument: list[str], message: str, files: Path, canary: Path
) -> None:
    (files / "settings.txt").write_text(yaml.safe_dump(CONFIGS["class"]))
    (files / "model.txt").write_text(yaml.safe_dump({"class_path": "evil.Class"}))
    (files / "run.yaml").write_text(yaml.safe_dump(changed()))
    command = [sys.executable, "-m", "lcpdn_pl", "fit", "--config", "run.yaml", *argument]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert ended.returncode != 0
    assert message in ended.stderr
    assert not canary.exists()


def test_what_the_command_line_names_is_trusted(files: Path, canary: Path) -> None:
    (files / "run.yaml").write_text(yaml.safe_dump(changed()))
    refused("fit", "--config", "run.yaml", "--model.network=evil.Class")  # it is no network
    assert canary.exists()
    canary.rmdir()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configuration_of_a_run_runs_no_code(name: str, files: Path) -> None:
    (files / "config.yaml").write_text(yaml.safe_dump(CONFIGS[name]))
    (files / "best.ckpt").touch()
    with pytest.raises((ConfigError, CheckpointError)):
        lcpdn_pl.load(files / "best.ckpt")
    assert "evil" not in sys.modules


def test_code_of_others_that_a_trusted_package_imports_is_not_trusted(files: Path) -> None:
    Path("run.yaml").write_text(yaml.safe_dump(changed(model="torch.os.system")))
    refused("fit", "--config", "run.yaml")
    exits = CALLBACK | {"init_args": {"on_fit_start": "torch.os._exit"}}
    Path("run.yaml").write_text(yaml.safe_dump(changed(trainer={"callbacks": [exits]})))
    refused("fit", "--config", "run.yaml", "--print_config")
    assert files.is_dir()


@pytest.mark.parametrize("suffix", ["yaml", "YAML", "yml"])
def test_check_data_runs_no_code(
    suffix: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files / f"run.{suffix}"
    path.write_text(yaml.safe_dump(changed(data={"class_path": "evil.Class"})))
    refused("check-data", str(path))
    assert f"{path} names code that would be imported and run" in capsys.readouterr().err
    assert "evil" not in sys.modules


def test_tags_of_yaml_run_no_code(run: Path, canary: Path) -> None:
    main(["test", "--ckpt_path", str(run / "best.ckpt")])
    tagged = f"model: !!python/object/apply:os.mkdir [{str(canary)!r}]\n"
    Path("evil.yaml").write_text(tagged)
    for command in (["fit", "--config"], ["benchmark"], ["check-data"]):
        refused(*command, "evil.yaml")
    (run / "config.yaml").write_text(tagged)
    refused("report", str(run))
    with pytest.raises(CheckpointError, match="could not determine a constructor"):
        lcpdn_pl.load(run / "best.ckpt")


@pytest.mark.parametrize(
    "arguments",
    [
        "--model.network evil.Class",
        "--model.network=evil.Class",
        "--trainer.callbacks+=lightning.pytorch.callbacks.LambdaCallback "
        "--trainer.callbacks.on_fit_start=evil.call",
        "--trainer.callbacks '[{class_path: evil.Class}]'",
        "--allow_code --config run.yaml",
    ],
)
def test_a_grid_names_no_code(arguments: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files / "grid.yaml"
    grid = {"out": "runs", "grids": [{"method": {"a": arguments}}]}
    path.write_text(yaml.safe_dump(grid))
    with pytest.raises(ConfigError, match=r"grid\.yaml names code that would be imported and run"):
        read_grid(path)
    path.write_text(yaml.safe_dump(grid | {"grids": [{"a": {1: ""}}], "tests": {"b": arguments}}))
    with pytest.raises(ConfigError, match=r"grid\.yaml names code that would be imported and run"):
        read_grid(path)
    monkeypatch.setenv(ALLOW, "1")
    read_grid(path)


def test_a_grid_writes_below_its_folder(files: Path) -> None:
    path = files / "grid.yaml"
    for label in ("..", "a/../../b", "/etc", "..\\x", "C:x"):
        path.write_text(yaml.safe_dump({"out": "runs", "grids": [{"method": {label: ""}}]}))
        with pytest.raises(ConfigError, match="expected labels of `method` that name a folder"):
            read_grid(path)
    for argument in ("--run_folder=/x", "--run_folder /x", "--ckpt_path x"):
        path.write_text(yaml.safe_dump({"out": "runs", "grids": [{"method": {"a": argument}}]}))
        with pytest.raises(ConfigError, match="but a cell's folder follows from `out`"):
            read_grid(path)


# Weights


def lying_safetensors(path: Path, header: bytes | None = None) -> None:
    """A header of 2^40 bytes, or one that a file of 16 bytes does not hold."""
    if header is None:
        path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    else:
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))


def described(shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


LIES: dict[str, bytes | None] = {
    "header": None,
    "shape": json.dumps({"a": described([2**20, 2**20], 0, 2**42)}).encode(),
    "offset": json.dumps({"a": described([4], 2**40, 2**40 + 16)}).encode(),
    "overlap": json.dumps({"a": described([4], 0, 16), "b": described([4], 0, 16)}).encode(),
    "nesting": b'{"a":' * 100_000,
}


def bert(folder: Path, tiny_bert: str, **config: object) -> Path:
    folder.mkdir()
    for file in Path(tiny_bert).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_pickled_weights_run_no_code(canary: Path, tmp_path: Path, tiny_bert: str) -> None:
    torch.save({"weight": Bomb(canary)}, tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(canary), protocol=2))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(WeightsError, match="code in it is not run"):
            create_denoiser(str(tmp_path / name))
        with pytest.raises(WeightsError, match="code in it is not run"):
            create_image_encoder(f"open_clip/ViT-B-16/{tmp_path / name}")
    encoder = bert(tmp_path / "bert", tiny_bert)
    (encoder / "model.safetensors").unlink()
    (tmp_path / "evil.pt").rename(encoder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="code in it is not run"):
        create_text_encoder(str(encoder))
    unet = tmp_path / "unet"
    UNet2DModel.from_config({"block_out_channels": (32,) * 4}).save_config(unet)
    torch.save({"weight": Bomb(canary)}, unet / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="expected the folder of a diffusers UNet2DModel"):
        create_denoiser(str(unet))


def test_code_that_comes_with_an_encoder_is_not_run(
    canary: Path, tmp_path: Path, tiny_bert: str
) -> None:
    code = {"auto_map": {"AutoModel": "evil.Class", "AutoConfig": "evil.Class"}}
    encoder = bert(tmp_path / "bert", tiny_bert, **code, model_type="evil")
    (encoder / "evil.py").write_text((tmp_path / "evil.py").read_text())
    with pytest.raises(WeightsError, match="contains custom code"):
        create_text_encoder(str(encoder))
    assert not canary.exists()


@pytest.mark.parametrize("lie", LIES)
def test_safetensors_that_lie_are_refused(
    lie: str, tmp_path: Path, tiny_bert: str, tiny_denoiser: str
) -> None:
    lying_safetensors(tmp_path / "a.safetensors", LIES[lie])
    encoder = bert(tmp_path / "bert", tiny_bert)
    lying_safetensors(encoder / "model.safetensors", LIES[lie])
    unet = tmp_path / "unet"
    unet.mkdir()
    (unet / "config.json").write_bytes(Path(tiny_denoiser, "config.json").read_bytes())
    lying_safetensors(unet / "diffusion_pytorch_model.safetensors", LIES[lie])
    with little_memory():
        for create, name in (
            (create_denoiser, str(tmp_path / "a.safetensors")),
            (create_denoiser, str(unet)),
            (create_text_encoder, str(encoder)),
        ):
            with pytest.raises(WeightsError):
                create(name)


# Tables, manifests and pictures


@contextmanager
def little_memory(most: int = 2**26) -> Iterator[None]:
    """Fails if much more is allocated than what small files need."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "..\\out", "C:\\out"])
def test_a_manifest_writes_nowhere_else(name: str, tmp_path: Path) -> None:
    image = write_images(tmp_path, 1) / "image_00.png"
    row = {"image": str(image), "mask": "", "text": "One.", "split": "predict", "name": name}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"names that lead out of the folder: .*out"):
        read_manifest(tmp_path / "m.jsonl")


def test_a_manifest_may_read_elsewhere(tmp_path: Path) -> None:
    image = write_images(tmp_path / "images", 1) / "image_00.png"
    rows = [
        {"image": place, "mask": "", "text": "One.", "split": "predict", "name": name}
        for name, place in (("patient 1/a", str(image)), ("b", "../images/image_00.png"))
    ]
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists/m.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert list(read_manifest(path)["name"]) == ["patient 1/a", "b"]


def test_tables_that_would_fill_the_memory(tmp_path: Path, make_tree: TreeMaker) -> None:
    import openpyxl

    path = tmp_path / "wide.xlsx"
    book = openpyxl.Workbook()
    for row in range(1, 2000):
        book.active.cell(row, 16_384, "x")
    book.save(path)
    most = r"wide\.xlsx: expected at most 10,000,000 cells"
    with little_memory(2**27), pytest.raises(DataError, match=most):
        read_reports(path)
    path = tmp_path / "objects.json"
    path.write_text(json.dumps([{str(number): ""} for number in range(4000)]))
    with little_memory(), pytest.raises(DataError, match=r"objects\.json: expected at most 10,000"):
        read_reports(path)
    path = make_tree(tmp_path / "tree") / "Train_Folder/Train_text.csv"
    with path.open("r+b") as file:
        file.truncate(MOST_BYTES + 1)
    with little_memory(), pytest.raises(DataError, match=r"expected a table of at most 64 MiB"):
        read_reports(path)


def png_bomb(path: Path) -> None:
    header = (60_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    content = zlib.compress(bytes(10_000))
    chunks = ((b"IHDR", header), (b"IDAT", content), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            len(part).to_bytes(4, "big") + name + part + zlib.crc32(name + part).to_bytes(4, "big")
            for name, part in chunks
        )
    )


def test_png_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(_picture: object) -> None:
        raise AssertionError("pixels are decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    path = tmp_path / "a.png"
    png_bomb(path)
    assert Image.MAX_IMAGE_PIXELS is not None  # no library has lifted the limit
    for read in (read_image, read_size, open_picture):
        with little_memory(), pytest.raises(DataError, match=r"a\.png"):
            read(path)


def test_dicom_bombs(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", np.zeros((2, 3), np.uint16), Rows=60_000, Columns=60_000)
    with little_memory(), pytest.raises(DataError, match=r"declares 60000 x 60000 pixels"):
        open_picture(path)
    dataset = pydicom.dcmread(write_dicom(tmp_path / "b.dcm", np.zeros((2, 3), np.uint16)))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    whole = open_picture(tmp_path / "b.dcm")
    assert (whole.height, whole.width) == (2, 3)
    content = (tmp_path / "b.dcm").read_bytes()
    meta = 144 + int(pydicom.dcmread(tmp_path / "b.dcm").file_meta.FileMetaInformationGroupLength)
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    element = b"\x09\x00\x10\x10OB\0\0" + (600 * 2**20).to_bytes(4, "little")
    parts = [element, *(bytes(2**20) for _ in range(600))]
    bomb = b"".join(map(deflater.compress, parts)) + deflater.flush()
    (tmp_path / "b.dcm").write_bytes(content[:meta] + bomb)
    with little_memory(), pytest.raises(DataError, match=r"inflates to more than 572 MiB"):
        open_picture(tmp_path / "b.dcm")


def test_compressed_dicom_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(_picture: object) -> None:
        raise AssertionError("pixels are decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    file = BytesIO()
    Image.new("L", (4, 2)).save(file, "JPEG")
    small, size = file.getvalue(), b"\x2e\xe0" * 2
    at = small.index(b"\xff\xc0")
    jpeg = small[: at + 5] + size + small[at + 9 :]
    jpeg_ls = jpeg[:at] + b"\xff\xf7" + jpeg[at + 2 :]
    codestream = b"\xff\x4f\xff\x51" + bytes(4) + (b"\0\0" + size[:2]) * 2 + bytes(24) + b"\0\1"
    path = tmp_path / "a.dcm"
    for syntax, frame in (
        (JPEGBaseline8Bit, jpeg),
        (JPEGBaseline8Bit, codestream),  # Pillow decodes what it is, not what it is called
        (JPEGLSLossless, jpeg_ls),
        (JPEG2000Lossless, codestream),
    ):
        compress(write_dicom(path, np.zeros((2, 4), np.uint8)), syntax, [frame])
        picture = open_picture(path)
        found = r"a\.dcm: .* 2 x 4 pixels of 1 channel, .* 12000 x 12000 pixels .* Export it again"
        with little_memory(2**25), pytest.raises(DataError, match=found):
            picture.rows(0, 2)
    for syntax, frame, found in (
        (JPEGBaseline8Bit, b"\x89PNG\r\n\x1a\n" + bytes(100), "holds no picture whose size"),
        (MPEG2MPML, small, "its compression, .* is not known"),
    ):
        compress(write_dicom(path, np.zeros((2, 4), np.uint8)), syntax, [frame])
        with pytest.raises(DataError, match=rf"a\.dcm: .*{found}"):
            open_picture(path).rows(0, 2)


def rle(*segments: bytes) -> bytes:
    starts = [64 + len(b"".join(segments[:number])) for number in range(len(segments))]
    header = b"".join(number.to_bytes(4, "little") for number in (len(segments), *starts))
    return header.ljust(64, b"\0") + b"".join(segments)


@pytest.mark.filterwarnings("ignore:The decoded RLE segment contains non-conformant padding")
def test_dicom_bombs_of_rle(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    high, low = b"\xf9\1", b"\7" + bytes(range(8))  # a run of 8, and 8 as they are
    bomb = b"\x81\0" * 2**20  # 128 MiB
    for frame in (rle(high, bomb), rle(bomb, low)):
        compress(write_dicom(path, np.zeros((2, 4), np.uint16)), RLELossless, [frame])
        picture = open_picture(path)
        found = r"a\.dcm: .* 2 x 4 pixels .* a segment of RLE of more than 136 bytes. Export"
        with little_memory(2**25), pytest.raises(DataError, match=found):
            picture.rows(0, 2)
    padded = rle(high + b"\0", low + b"\x81\0")  # as some writers do
    compress(write_dicom(path, np.zeros((2, 4), np.uint16)), RLELossless, [padded])
    pixels = open_picture(path, window=(256 + 127.5, 255)).rows(0, 2)
    np.testing.assert_array_equal(pixels[..., 0], np.arange(8).reshape(2, 4))


def overwrite(path: Path, tag: str, value: int) -> None:
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags[tag].overwrite(value)


def tiff_of_parts(path: Path, part: bytes) -> None:
    """A large TIFF whose tiles of 256 x 256 are all this part."""
    side = 8448
    tifffile.imwrite(
        path,
        iter([part] * (side // 256) ** 2),
        shape=(side, side),
        dtype=np.uint8,
        tile=(256, 256),
        compression="zlib",
        photometric="minisblack",
    )


def test_tiff_bombs(tmp_path: Path) -> None:
    inflated = zlib.compress(bytes(2**28))
    tiff_of_parts(tmp_path / "a.tif", inflated)
    picture = open_picture(tmp_path / "a.tif")
    with little_memory(), pytest.raises(DataError, match="part 0 inflates to more than its 65536"):
        picture.rows(0, 256)
    jpeg = tmp_path / "a.jpg"
    Image.new("L", (512, 64)).save(jpeg)
    wide = bytearray(jpeg.read_bytes())
    at = wide.index(b"\xff\xc0")
    wide[at + 5 : at + 9] = b"\xff\xdc\xff\xdc"
    codestream = b"\xff\x4f\xff\x51" + bytes(4) + (2**31).to_bytes(4, "big") * 2 + bytes(24)
    many = b"\xff\x4f\xff\x51" + bytes(4) + (256).to_bytes(4, "big") * 2 + bytes(24)
    for name, part, compression, found in (
        ("b", bytes(wide), 7, "65500 x 65500 pixels of 1 channel"),
        ("c", codestream + b"\0\1", 34712, "2147483648 x 2147483648 pixels of 1 channel"),
        ("e", many + b"\x40\0", 34712, "256 x 256 pixels of 16384 channels"),
        ("f", b"no picture", 7, "no picture whose size can be read"),
    ):
        tiff_of_parts(tmp_path / f"{name}.tif", part)
        overwrite(tmp_path / f"{name}.tif", "Compression", compression)
        picture = open_picture(tmp_path / f"{name}.tif")
        message = f"part 0 of 256 x 256 pixels of 1 channel holds {found}"
        with little_memory(), pytest.raises(DataError, match=message):
            picture.rows(0, 256)
    tifffile.imwrite(tmp_path / "d.tif", np.zeros((8448, 8448), np.uint8), tile=(256, 256))
    for tag, value, found in (
        ("Compression", 34925, "LZMA"),
        ("SamplesPerPixel", 60_000, "60000 channels"),
        ("ImageWidth", 600_000, "expected sides of at most 500,000"),
    ):
        content = (tmp_path / "d.tif").read_bytes()
        overwrite(tmp_path / "d.tif", tag, value)
        with little_memory(), pytest.raises(DataError, match=found):
            open_picture(tmp_path / "d.tif")
        (tmp_path / "d.tif").write_bytes(content)


def nifti_header(shape: tuple[int, ...], offset: int = 352) -> bytearray:
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float64)
    header["vox_offset"], header["magic"] = offset, b"n+1"
    header.set_sform(np.eye(4), 1)
    return bytearray(header.binaryblock) + bytes(4)


def write_gzipped(path: Path, start: bytearray, zeros: int) -> None:
    """A start, and then MiB of zeros, which take next to nothing packed."""
    packer = zlib.compressobj(1, wbits=31)
    parts = [packer.compress(start), *(packer.compress(bytes(2**20)) for _ in range(zeros))]
    path.write_bytes(b"".join([*parts, packer.flush()]))


def test_nifti_bombs(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_gzipped(path, nifti_header((30_000, 30_000, 2)), 1)
    with little_memory(), pytest.raises(DataError, match=r"declares 30000 x 30000 pixels"):
        open_picture(path, slice=0)
    for size in (2**30, 0):  # notes that are long, or as long as the file
        header = nifti_header((2, 2, 2), 2**30)
        header[348] = 1
        write_gzipped(path, header + size.to_bytes(8, "little"), 128)
        with little_memory(), pytest.raises(DataError, match=r"a\.nii\.gz: expected a NIfTI"):
            open_picture(path, slice=0)


def test_a_nifti_that_is_stored_across_its_slices_is_read_by_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = np.random.default_rng(0).integers(0, 99, (16, 512, 2048), np.int16)
    path = tmp_path / "a.nii"
    affine = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float)
    nibabel.save(nibabel.Nifti1Image(volume, affine), path)
    picture = open_picture(path, slice=5, window=(50, 100))
    monkeypatch.setattr("lcpdn_pl.data.pictures.nifti._AT_ONCE", 2**18)
    with little_memory(2**24):  # the volume is twice that
        rows = picture.rows(0, picture.height)
    expected = np.rint(volume[5][::-1, ::-1].T * 255 / 100)
    np.testing.assert_array_equal(rows[..., 0], expected)
