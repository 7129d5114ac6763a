"""Which device, what stays in float32 on it under mixed precision, and how processes part."""

from __future__ import annotations

import ctypes
import os
import platform
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist

from argenzoo.errors import ArgenzooError

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's names for mallopt
PATIENCE = timedelta(days=2)  # of the other processes, while one saves, samples or measures


def checked_device(name: str | None) -> torch.device:
    """The GPU where there is one, for None. Raises ArgenzooError where there is no such device."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ArgenzooError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def hardware(device: torch.device) -> str:
    """For a result: a time means nothing without it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """``fp32``, or ``bf16`` where it is safe."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def finished(device: torch.device) -> None:
    """Wait until a GPU has done what it was given: only then a time means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def keep_memory() -> None:
    """Memory that tensors free stays with this process, for the next ones: a step frees and takes the same sizes again and again, and what
    went back to the system would be cleared page by page. It holds for the whole process, so it is for a program to say, not for a library.

    On Linux with glibc; where a variable of the environment sets glibc's allocator already, that stays.
    """
    if platform.libc_ver()[0] == "glibc" and not any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        library = ctypes.CDLL(None)
        # what is mapped by itself is unmapped when freed; an older library refuses more than 32 MiB
        if any(library.mallopt(MMAP_THRESHOLD, size) for size in (2**31 - 1, 2**25)):
            library.mallopt(TRIM_THRESHOLD, -1)  # never


def give_memory_back() -> None:
    """What ``keep_memory`` kept, at once."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def only_sampling(device: torch.device) -> AbstractContextManager[object]:
    """Inside, nothing can be trained, and small operations cost less (``torch.inference_mode``). Under autocast it is ``torch.no_grad``:
    autocast keeps its casts of the weights over many calls only where these might still be trained."""
    there = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.no_grad() if there else torch.inference_mode()


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off inside; the meta device, which only counts, has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def is_main() -> bool:
    """Whether this is the process that writes."""
    return os.environ.get("RANK", "0") == "0"


def together() -> None:
    """Wait for the other processes, where there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def leave() -> None:
    """The end of a command on several processes: together, or one that exits early aborts another's background threads."""
    together()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
