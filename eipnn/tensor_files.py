"""Files of plain values and tensors: written whole or not at all, read only where each bit is as it was written."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

from eipnn.files import replacing


def read_tensors(file: Path, mapped: bool = False) -> Any:
    """The content of a file of `torch.save`, on the CPU; no code in it is run.

    Args:
        file: as a path.
        mapped: whether tensors stay in the file until they are used.

    Raises:
        ValueError: it is no such file, holds other things than plain values and tensors, or is damaged: what torch
            writes is a zip archive with checksums, which torch itself does not look at.
    """
    import torch  # here: seconds that commands which read no such file need not wait for

    try:
        with zipfile.ZipFile(file) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"damaged: the checksum of {damaged} does not fit")
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:  # torch's own words advise to run the code
        raise ValueError("it holds more than plain values and tensors, which could run code") from error
    except Exception as error:  # zipfile, pickle and torch raise many kinds
        raise ValueError(" ".join(f"{error}".split()) or type(error).__name__) from error


def write_tensors(file: Path, content: Any) -> None:
    """Write plain values and tensors, all or nothing; see `replacing`."""
    import torch

    with replacing(file) as part, part.open("wb") as stream:  # with a path, torch would not say that the disk is full
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # torch's own, on the way out of the stream's
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
