"""From a network to the files that other runtimes read."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fer_lightning.inference.predict import open_session

Faces = NDArray[np.float32]
"""(N, channels, size, size) in [0, 1]."""

Runner = Callable[[Faces], NDArray[np.float32]]
"""From faces (N, channels, size, size) to logits (N, classes)."""

CALIBRATIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "min and max": {},
    "99.99th percentile": {"calibrate_method": "Percentile", "percentile": 99.99},
    "min and max, first and last layer in float": {"float_ends": True},
}
"""Ways to choose the ranges of int8, in the order in which they are tried."""


def write_onnx(network: nn.Module, path: Path, channels: int, size: int) -> None:
    """ONNX for any batch: `image` float32 (batch, channels, size, size) in [0, 1] to `logits` (batch, classes)."""
    with _quiet():
        program = torch.onnx.export(
            network,
            (torch.zeros(2, channels, size, size),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None
        program.save(path, external_data=False)


def write_int8(float_graph: Path, path: Path, faces: Faces, calibration: str) -> None:
    """A static int8 copy of an ONNX graph: weights symmetric and by channel, ranges of activations from faces.

    Args:
        float_graph: What `write_onnx` wrote.
        path: Where to.
        faces: To see how large activations get.
        calibration: One of `CALIBRATIONS`.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
        def __init__(self) -> None:
            self._faces = iter(faces)

        def get_next(self) -> dict[str, Faces] | None:
            face = next(self._faces, None)
            return None if face is None else {"image": face[None]}

    import onnx

    options = CALIBRATIONS[calibration]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(float_graph), str(prepared), skip_symbolic_shape=True)
        layers = [node.name for node in onnx.load(str(prepared)).graph.node if node.op_type in ("Conv", "Gemm")]
        quantize_static(
            str(prepared),
            str(path),
            Reader(),
            per_channel=True,
            nodes_to_exclude=[layers[0], layers[-1]] if options.get("float_ends") else [],
            calibrate_method=CalibrationMethod[options.get("calibrate_method", "MinMax")],
            extra_options={
                "WeightSymmetric": True,
                "CalibPercentile": options.get("percentile"),
            },
        )


def write_torch_export(network: nn.Module, path: Path, channels: int, size: int) -> None:
    """A `torch.export` program of the same input and output, for `torch.export.load`, AOTInductor and others."""
    batch = torch.export.Dim("batch")
    with _quiet():
        program = torch.export.export(
            network, (torch.zeros(2, channels, size, size),), dynamic_shapes=({0: batch},), strict=True
        )
        torch.export.save(program, path)


def write_executorch(
    network: nn.Module, path: Path, channels: int, size: int, calibration: Faces | None = None
) -> None:
    """An ExecuTorch program for phones, lowered to XNNPACK, for one face at a time.

    Args:
        network: From pixels to logits.
        path: Where to.
        channels: Of the input.
        size: Of the input in pixels.
        calibration: Faces: then weights and activations are int8 (weights by channel, static ranges).
    """
    example = (torch.zeros(1, channels, size, size),)
    with _quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        if calibration is not None:
            from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
                XNNPACKQuantizer,
                get_symmetric_quantization_config,
            )
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

            quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
            captured = torch.export.export(network, example, strict=True).module()
            observed = prepare_pt2e(captured, quantizer)
            for face in calibration:
                observed(torch.from_numpy(face[None]))
            network = convert_pt2e(observed)
        program = torch.export.export(network, example, strict=True)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)


def torch_runner(network: Callable[[torch.Tensor], torch.Tensor]) -> Runner:
    """Runs a network by PyTorch."""

    def run(faces: Faces) -> NDArray[np.float32]:
        with torch.inference_mode():
            return network(torch.from_numpy(faces)).float().numpy()

    return run


def torch_export_runner(path: Path) -> Runner:
    """Runs a program of `write_torch_export` by PyTorch."""
    return torch_runner(torch.export.load(path).module())


def onnx_runner(path: Path, threads: int | None = None) -> Runner:
    """Runs a graph of `write_onnx` or `write_int8` as `FERPredictor` does, by ONNX Runtime on the CPU.

    Args:
        path: The graph.
        threads: For one batch; None for as many as there are cores.
    """
    session = open_session(path.read_bytes(), threads)

    def run(faces: Faces) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(["logits"], {"image": faces})[0]
        return logits

    return run


def executorch_runner(path: Path) -> Runner:
    """Runs a program of `write_executorch`, one face after the other."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def run(faces: Faces) -> NDArray[np.float32]:
        ones = (torch.from_numpy(face[None]) for face in faces)
        # copied: the next call writes into the same memory
        return np.concatenate([method.execute([one])[0].numpy().copy() for one in ones])

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the messages of exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
