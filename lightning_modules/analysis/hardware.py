"""What a figure was measured with, in words: devices and versions."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def hardware(device: torch.device, num_devices: int = 1) -> dict[str, str]:
    """What a run used, for its records.

    Args:
        device: of one process.
        num_devices: of all processes.

    Returns:
        ``devices``, e.g. ``2 x NVIDIA H100 80GB HBM3, 16 CPUs``, and ``versions``.
    """
    several = f"{num_devices} x " if num_devices > 1 else ""
    return {
        "devices": f"{several}{device_name(device)}, {os.cpu_count()} CPUs",
        "versions": f"{versions(device)}, Lightning {version('lightning')}, PyAV {version('av')}",
    }


def device_name(device: torch.device) -> str:
    """Name of a device; on a CPU with the threads that compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def versions(device: torch.device) -> str:
    """Of Python, PyTorch and, where it is used, CUDA."""
    found = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    return f"{found}, CUDA {torch.version.cuda}" if device.type == "cuda" else found


def processor() -> str:
    """The model as Linux knows it; elsewhere what Python knows."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
