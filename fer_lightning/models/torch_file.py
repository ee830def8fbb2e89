"""Files that torch.save wrote, read as data alone."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from fer_lightning.files import one_line


def read_torch_file(path: Path, *, mmap: bool = False) -> Any:
    """Tensors and plain containers from a file; no code in it runs, and it cannot unpack to more than its size.

    Args:
        path: What `torch.save` wrote.
        mmap: Leave the tensors on the disk until they are used.

    Raises:
        ValueError: It cannot be read so; the message is the reason.
    """
    try:
        if zipped := zipfile.is_zipfile(path):  # torch stores without compression; its reader would unpack all the same
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                    raise ValueError("it would unpack to more than its size: refused")
        return torch.load(path, map_location="cpu", mmap=mmap and zipped, weights_only=True)
    except pickle.UnpicklingError:  # torch's message advises to run what is in the file
        raise ValueError("it is damaged, or holds more than tensors and plain data: refused") from None
    except RuntimeError as error:
        cut = "PytorchStreamReader" in str(error)
        raise ValueError("it is damaged or not whole" if cut else one_line(error)) from None
    except Exception as error:  # a damaged file makes zipfile, pickle and torch raise anything
        raise ValueError(one_line(error)) from None
