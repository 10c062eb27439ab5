"""The arithmetic peak of a device, in TFLOP/s without sparsity."""

from __future__ import annotations

import re
import time

import torch

#: Words of a device's name -> TFLOP/s in fp32 (no tensor cores), TF32 and bf16 (accumulated in fp32), from NVIDIA's
#: data sheets and, for GeForce, the architecture white papers. The first match counts.
DATA_SHEETS: dict[str, tuple[float, float, float]] = {
    "H200": (67.0, 494.7, 989.4),
    "H100 PCIe": (51.2, 378.0, 756.0),
    "H100 NVL": (60.0, 417.5, 835.5),
    "H100": (67.0, 494.7, 989.4),
    "A100": (19.5, 156.0, 312.0),
    "L40S": (91.6, 183.0, 362.0),
    "L4": (30.3, 60.0, 121.0),
    "A10": (31.2, 62.5, 125.0),
    "RTX 4090": (82.6, 82.6, 165.2),
    "RTX 3090": (35.6, 35.6, 71.2),
}
PRECISIONS = ("fp32", "tf32", "bf16")


def set_precision(precision: str) -> None:
    """Whether products of float32 numbers may use TF32. (bf16 is the trainer's autocast.)"""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def peak(device: torch.device, precision: str, size: int) -> tuple[float, str]:
    """FLOP/s, and where the number is from: a data sheet, or a product of two `size` x `size` matrices."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    for part, figures in DATA_SHEETS.items():
        if re.search(rf"\b{part}\b", name):
            return figures[PRECISIONS.index(precision)] * 1e12, f"data sheet of {part}"
    return measured_peak(device, precision, size), f"measured by a product of {size} x {size} matrices"


def measured_peak(device: torch.device, precision: str, size: int) -> float:
    """The largest FLOP/s of ten products of two `size` x `size` matrices."""
    set_precision(precision)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        wait(device)
        started = time.perf_counter()
        a @ b
        wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def wait(device: torch.device) -> None:
    """Wait for queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
