"""What computes: models built, fitted, asked and pretrained. Every entry, command, notebook or worker, passes through here."""

import ctypes
import os
import sys


def _keep_freed_memory() -> None:
    """For the whole process, have glibc keep freed memory for the next tensors, where it would return all large ones.

    Getting them anew, a page fault every 4 KiB, was a tenth of a training step of a BERT on a CPU, and a quarter of one of
    MSAMamba on 90 rows. Does nothing on other systems.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_max = -1, -4  # as numbered in malloc.h
        libc.mallopt(trim_threshold, -1)
        libc.mallopt(mmap_max, 0)


_keep_freed_memory()
# cuBLAS reads it once, long before a run says whether it is to be deterministic. 32 MiB, as on Hopper by default.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
