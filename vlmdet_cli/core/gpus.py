"""The CUDA devices that are visible, asked of the driver itself: torch is not imported for it."""

import ctypes
import os


def gpus() -> int:
    """The number of CUDA devices that are visible."""
    return len(gpu_memory())


def gpu_memory() -> list[float]:
    """Memory of each visible CUDA device in GB."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "x").strip() in {"", "-1"}:
        return []
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, device, size = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_size_t(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    memory = []
    for number in range(count.value):
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        memory.append(size.value / 1e9)
    return memory
