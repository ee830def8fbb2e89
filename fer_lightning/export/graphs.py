"""Exports networks to other runtimes, and runs the exported graphs."""

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
"""Maps faces (N, channels, size, size) to logits (N, classes)."""

CALIBRATIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "min and max": {},
    "99.99th percentile": {"calibrate_method": "Percentile", "percentile": 99.99},
    "min and max, first and last layer in float": {"float_ends": True},
}
"""Methods of choosing the int8 ranges, in the order in which they are tried."""


def write_onnx(network: nn.Module, path: Path, channels: int, size: int) -> None:
    """Write ONNX for any batch: `image` float32 (batch, channels, size, size) in [0, 1], `logits` (batch, classes)."""
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
    """Write a static int8 copy of an ONNX graph, with symmetric per-channel weights and calibrated activations.

    Args:
        float_graph: Output of `write_onnx`.
        path: Output file.
        faces: Faces to calibrate the ranges of activations.
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
    """Write a `torch.export` program with the input and output of `write_onnx`, for AOTInductor and others."""
    batch = torch.export.Dim("batch")
    with _quiet():
        program = torch.export.export(
            network, (torch.zeros(2, channels, size, size),), dynamic_shapes=({0: batch},), strict=True
        )
        torch.export.save(program, path)


def write_executorch(
    network: nn.Module, path: Path, channels: int, size: int, calibration: Faces | None = None
) -> None:
    """Write an ExecuTorch program for phones, lowered to XNNPACK, for one face at a time.

    Args:
        network: Maps pixels to logits.
        path: Output file.
        channels: Channels of the input.
        size: Height and width of the input in pixels.
        calibration: Faces to calibrate int8 (per-channel weights, static ranges); None for float32.
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
    """Runner of a network in PyTorch."""

    def run(faces: Faces) -> NDArray[np.float32]:
        with torch.inference_mode():
            return network(torch.from_numpy(faces)).float().numpy()

    return run


def torch_export_runner(path: Path) -> Runner:
    """Runner of a `write_torch_export` program in PyTorch."""
    return torch_runner(torch.export.load(path).module())


def onnx_runner(path: Path, threads: int | None = None) -> Runner:
    """Runner of a `write_onnx` or `write_int8` graph in ONNX Runtime on the CPU, as in `FERPredictor`.

    Args:
        path: The graph.
        threads: Threads per batch; None for the number of cores.
    """
    session = open_session(path.read_bytes(), threads)

    def run(faces: Faces) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(["logits"], {"image": faces})[0]
        return logits

    return run


def executorch_runner(path: Path) -> Runner:
    """Runner of a `write_executorch` program, one face at a time."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def run(faces: Faces) -> NDArray[np.float32]:
        batches = (torch.from_numpy(face[None]) for face in faces)
        # the next call writes to the same memory
        return np.concatenate([method.execute([batch])[0].numpy().copy() for batch in batches])

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of exporters."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
