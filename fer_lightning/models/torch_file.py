"""Safe reading of files written by `torch.save`."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from fer_lightning.files import one_line


def read_torch_file(path: Path, *, mmap: bool = False) -> Any:
    """Read tensors and plain containers from a file; no code in it runs, and it cannot unpack to more than its size.

    Args:
        path: A file written by `torch.save`.
        mmap: Whether to memory-map the tensors, so that they are read when used.

    Raises:
        ValueError: The file cannot be read this way; the message gives the reason.
    """
    try:
        if zipped := zipfile.is_zipfile(path):  # torch writes no compression, but its reader accepts it
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                    raise ValueError("it would unpack to more than its size: refused")
        return torch.load(path, map_location="cpu", mmap=mmap and zipped, weights_only=True)
    except pickle.UnpicklingError:  # torch's message suggests to run the code in the file
        raise ValueError("it is damaged, or holds more than tensors and plain data: refused") from None
    except RuntimeError as error:
        truncated = "PytorchStreamReader" in str(error)
        raise ValueError("it is damaged or incomplete" if truncated else one_line(error)) from None
    except Exception as error:  # a damaged file makes zipfile, pickle and torch raise anything
        raise ValueError(one_line(error)) from None
