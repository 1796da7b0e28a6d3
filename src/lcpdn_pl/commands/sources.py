"""What a command takes for a data set: a run's configuration, a folder or a manifest."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from lcpdn_pl.data import DataModule, Manifest, Phantom, SegmentationDataModule
from lcpdn_pl.data.lvit import list_lvit
from lcpdn_pl.data.manifest import list_manifest
from lcpdn_pl.data.own import FOREGROUND
from lcpdn_pl.data.problems import Problems
from lcpdn_pl.data.protocols import read_protocol
from lcpdn_pl.data.public import PublicDataModule
from lcpdn_pl.data.samples import COLUMNS
from lcpdn_pl.errors import ConfigError, DataError
from lcpdn_pl.trust import refuse_foreign_code


def _nothing() -> pd.DataFrame:
    return pd.DataFrame(columns=list(COLUMNS))


@dataclass(frozen=True)
class Source:
    """A data set, and what a run would make of it.

    Attributes:
        listed: Samples table of everything there is.
        samples: Samples table of what a run uses.
        problems: What is wrong with the files, their names and their tables.
        remedy: What to do about that.
        foreground: Mask values that are foreground; ``None`` for all but 0.
        ignore: Mask value of pixels to ignore.
        image_size: Side that images are resized to; ``None`` where no configuration says so.
        protocol: Names and splits that the run takes; ``None`` for all there is.
        protocol_name: What they are called.
        text_encoder: The run's; ``None`` where no configuration says so.
        max_tokens: Tokens after which it cuts a report, likewise.
    """

    listed: pd.DataFrame = field(default_factory=_nothing)
    samples: pd.DataFrame = field(default_factory=_nothing)
    problems: Problems = field(default_factory=Problems)
    remedy: str = ""
    foreground: Sequence[int] | None = None
    ignore: int | None = None
    image_size: int | None = None
    protocol: pd.DataFrame | None = None
    protocol_name: str = ""
    text_encoder: str | None = None
    max_tokens: int | None = None


def open_source(path: Path, root: str | None = None) -> Source:
    """Lists a data set, whatever state it is in.

    Args:
        path: A run's configuration (.yaml), a folder in LViT's layout, or a manifest.
        root: Data root in place of the configuration's.

    Raises:
        ConfigError: If the configuration cannot be used.
    """
    if path.suffix.lower() in (".yaml", ".yml"):
        return _from_config(path, root)
    if root is not None:
        raise ConfigError(f"root={root} replaces a configuration's root, but {path} is none.")
    return _from_files(path)


def _from_files(path: Path) -> Source:
    problems = Problems()
    foreground = None
    try:
        if path.is_dir() or not path.suffix:
            samples, problems = list_lvit(path)
            remedy = "Complete the data, or move away what does not belong: see data/README.md."
        else:
            samples, problems = list_manifest(path)
            remedy = "Correct these rows; paths are relative to the manifest's folder."
            foreground = FOREGROUND
            # Noted already: neither is looked for again.
            there = samples["image"].map(lambda image: Path(image).is_file())
            samples = samples[there.astype(bool)]
            masks = samples["mask"].map(lambda mask: mask if Path(mask).is_file() else "")
            samples = samples.assign(mask=masks)
    except DataError as error:
        problems.add("reason why nothing else can be checked", str(error))
        return Source(problems=problems)
    return Source(samples, samples, problems, remedy, foreground)


def _from_config(path: Path, root: str | None) -> Source:
    config = _read_config(path)
    module = _data_module(path, config.get("data"), root)
    module.prepare_data()
    if isinstance(module, PublicDataModule | Phantom | Manifest):
        source = _from_files(module.root)
    else:
        try:
            samples = module.read_samples()
            source = Source(samples, samples)
        except DataError as error:
            source = Source()
            source.problems.add("reason why nothing else can be checked", str(error))
    if isinstance(module, PublicDataModule) and module.protocol != "full":
        protocol = read_protocol(module.protocols[module.protocol])
        samples = protocol[["name", "split"]].merge(source.listed.drop(columns="split"), on="name")
        source = replace(source, samples=samples, protocol=protocol, protocol_name=module.protocol)
    if isinstance(module, PublicDataModule) and not source.problems.kinds:
        # What is wrong with the protocol's names the checks list, beside all else.
        with suppress(DataError):
            source = replace(source, samples=module.read_samples())
    network = config
    for key in ("model", "init_args", "network", "init_args"):
        inner = network.get(key)
        network = inner if isinstance(inner, dict) else {}
    encoder, tokens = network.get("text_encoder"), network.get("max_tokens")
    if not isinstance(encoder, str | None) or not isinstance(tokens, int | None) or tokens == 0:
        raise ConfigError(
            f"{path}: text_encoder is {encoder!r} and max_tokens {tokens!r}: expected a name or a "
            "folder, and a number from 1 on. Correct them."
        )
    return replace(
        source,
        foreground=tuple(module.foreground),
        ignore=module.ignore,
        image_size=module.image_size,
        text_encoder=encoder,
        max_tokens=tokens,
    )


def _read_config(path: Path) -> dict[str, Any]:
    refuse_foreign_code(path)
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: expected a run's configuration, found an unreadable file ({error}). "
            "Correct the path or the file."
        ) from error
    if not isinstance(config, dict) or "data" not in config:
        raise ConfigError(
            f"{path}: expected a run's configuration with a section data, found none. Give one as "
            "lcpdn fit --config takes it, such as configs/monuseg.yaml."
        )
    return config


def _data_module(path: Path, section: Any, root: str | None) -> SegmentationDataModule:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DataModule, "data", required=True)
    if isinstance(section, str):
        section = {"class_path": section}
    if root is not None and isinstance(section, dict):
        section = section | {"init_args": {**(section.get("init_args") or {}), "root": root}}
    try:
        parsed = parser.parse_object({"data": section}).data
    except ArgumentError as error:
        raise ConfigError(f"{path}: the section data cannot be used: {error}") from error
    place, _, name = parsed.class_path.rpartition(".")
    data = getattr(import_module(place), name)
    if not issubclass(data, SegmentationDataModule):
        raise ConfigError(
            f"{path}: expected data with masks and reports, found {name}. Images for pretraining "
            "are checked when lcpdn fit lists them."
        )
    module: SegmentationDataModule = data(**parsed.init_args.as_dict())
    return module
