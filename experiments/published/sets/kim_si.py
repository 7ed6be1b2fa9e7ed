"""KIM-Si: silicon clusters, sheets, tubes and crystals (Shui et al.; figshare, doi 10.6084/m9.figshare.21266064).

One folder a configuration, `NAME/NAME.xyz`, in extended XYZ (A). Its comment line gives energies in eV:
`energy_reference` from DFT, absent in the pool, and `energy_<eip>` of each EIP. Below `cross_validation`,
`random_five_fold/folds/all_folds.json` holds `{"fold_1": {"training": [NAME, ...], "test": [NAME, ...]}, ...}`.
The id of a configuration is its NAME, as in the folds and in the authors' own split files.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import iread

from eipnn.structures import Split
from sets.base import (
    LayoutError,
    PublishedFrame,
    PublishedSet,
    RemoteFile,
    UnreachableError,
    fold_split,
    found_below,
    random_splits,
)
from sets.download import read_json_of

REFERENCE, PREFIX = "energy_reference", "energy_"
FOLDS, CROSS_VALIDATION = "random_five_fold/folds/all_folds.json", "cross_validation"


class KimSi(PublishedSet):
    """See the module."""

    name = "kim-si"
    title = "KIM-Si, silicon with DFT energies and a pool, both with the energies of eight EIPs"
    page = "https://doi.org/10.6084/m9.figshare.21266064"
    listing = "https://api.figshare.com/v2/articles/21266064"

    def remote_files(self) -> list[RemoteFile]:
        """The files of the figshare article, with sizes and MD5 sums as figshare lists them."""
        article = read_json_of(self.listing)
        try:
            return [
                RemoteFile(Path(f["name"]).name, f["download_url"], f["size"], f["computed_md5"])
                for f in article["files"]
            ]
        except (KeyError, TypeError) as error:
            raise UnreachableError(f"{self.listing}: answers without a list of files") from error

    def frames(self, folders: Sequence[Path]) -> tuple[int, Iterator[PublishedFrame]]:
        """All configurations, by name."""
        files = [
            file
            for folder in folders
            for file in found_below([folder], "*.xyz")
            if _is_configuration(file.relative_to(folder))
        ]
        if not files:
            raise LayoutError(f"{folders[0]}: no NAME/NAME.xyz in it; give the published archive")
        return len(files), (_frame(file) for file in sorted(files, key=lambda file: file.stem))

    def splits(self, folders: Sequence[Path], dft: Sequence[str], pool: Sequence[str]) -> dict[str, Split]:
        """Three random ones by the paper's rule, and one a fold of the authors' cross-validation.

        Raises `LayoutError` for folds that name an unknown configuration, one without DFT, or one twice.
        """
        splits = random_splits(dft, pool)
        files = found_below(folders, FOLDS)
        if not files:
            print(f"no {CROSS_VALIDATION}/{FOLDS} among the files: random splits are written alone")
            return splits
        if len(files) > 1:
            raise LayoutError(f"{files[1]}: are folds, as {files[0]} are; leave one of them")
        folds = _read_folds(files[0])
        everything = [*dft, *pool]
        known = {"DFT": set(dft), "pool": set(pool)}
        for number, name in enumerate(sorted(folds), start=1):
            training, test = (_part(folds[name], part, files[0], name) for part in ("training", "test"))
            _check_fold([*training, *test], known, f"{files[0]}: {name}")
            splits[name] = fold_split(training, test, everything, seed=number)
        return splits


def _is_configuration(file: Path) -> bool:
    """Whether this is NAME/NAME.xyz; below `cross_validation` are folds, not configurations."""
    return file.stem == file.parent.name and CROSS_VALIDATION not in file.parts


def _frame(file: Path) -> PublishedFrame:
    try:
        images = list(iread(file, index=":", format="extxyz", do_not_split_by_at_sign=True))
    except Exception as error:  # ASE's readers raise their own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LayoutError(f"{file}: ASE cannot read it ({reason}); get it again") from error
    if len(images) != 1:
        raise LayoutError(f"{file}: holds {len(images)} configurations, and it should be one")
    published = images[0]
    energies = {key: _number(value, key, file) for key, value in published.info.items() if key.startswith(PREFIX)}
    if not energies:
        raise LayoutError(f"{file}: has neither {REFERENCE} nor any {PREFIX}<eip>")
    atoms = Atoms(
        published.numbers, published.positions, cell=published.cell, pbc=published.pbc,
        info={"config_id": file.stem},
    )  # fmt: skip
    if REFERENCE in energies:
        atoms.calc = SinglePointCalculator(atoms, energy=energies.pop(REFERENCE))
    eips = {key.removeprefix(PREFIX): value for key, value in energies.items()}
    return PublishedFrame(str(file), atoms, eips)


def _number(value: Any, key: str, file: Path) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise LayoutError(f"{file}: {key} is {value!r}, not a number") from None


def _read_folds(file: Path) -> dict[str, Any]:
    try:
        folds = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LayoutError(f"{file}: not JSON ({error}); get it again") from None
    if not isinstance(folds, dict) or not folds:
        raise LayoutError(f"{file}: must be a mapping from fold to training and test")
    return folds


def _part(fold: Any, part: str, file: Path, name: str) -> list[str]:
    ids = fold.get(part) if isinstance(fold, dict) else None
    if not isinstance(ids, list) or not ids:
        raise LayoutError(f"{file}: {name} has no list {part!r}")
    return [str(i) for i in ids]


def _check_fold(ids: Sequence[str], known: dict[str, set[str]], where: str) -> None:
    for name, times in Counter(ids).items():
        if times > 1:
            raise LayoutError(f"{where}: names {name!r} {times} times")
        if name in known["pool"]:
            raise LayoutError(f"{where}: names {name!r}, which has no {REFERENCE}")
        if name not in known["DFT"]:
            raise LayoutError(f"{where}: names {name!r}, and there is no such configuration")
