"""What is the checksum of tensors? Every bit, type, shape and name goes in; who asks decides order and separator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def feed_tensors(digest: Any, tensors: Iterable[tuple[str, Tensor]], *, end: str = "") -> None:
    """Put named tensors into a hashlib `digest`; `end` closes each tensor's description.

    Checksums in files from before depend on every byte of this form, so it cannot change.

    >>> import hashlib
    >>> digests = [hashlib.sha256() for _ in range(2)]
    >>> for digest, values in zip(digests, ([1.0, 2.0], [2.0, 1.0])):
    ...     feed_tensors(digest, [("weight", torch.tensor(values))])
    >>> digests[0].hexdigest() == digests[1].hexdigest()
    False
    """
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}{end}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
