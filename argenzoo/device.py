"""Which device, what stays in float32 on it under mixed precision, and how processes part."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist

from argenzoo.errors import ArgenzooError


def checked_device(name: str | None) -> torch.device:
    """The GPU where there is one, for None. Raises ArgenzooError where there is no such device."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ArgenzooError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return device


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off inside; the meta device, which only counts, has none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def leave() -> None:
    """The end of a command on several processes: together, or one that exits early aborts another's background threads."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
