"""Several processes (torchrun, accelerate launch) on one estimation: each has its batches; sums are added."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gdrop_viz.base.processes import distributed
from gdrop_viz.fisher.batch import Batch
from gdrop_viz.fisher.sums import Sums


def share_of_process(batches: Sequence[Batch]) -> range:
    """The batches of this process: every world-size-th under torchrun, all of them otherwise."""
    if not distributed():
        return range(len(batches))
    import torch.distributed as dist

    if len(batches) < dist.get_world_size():
        raise ValueError(
            f"{len(batches)} batches cannot be shared among {dist.get_world_size()} processes; make smaller batches."
        )
    return range(dist.get_rank(), len(batches), dist.get_world_size())


def merged(sums: Sums) -> Sums:
    """The sums over all processes, in rank order on every one of them."""
    sums.gather()
    if not distributed():
        return sums
    import torch.distributed as dist

    for square in (sums.squares or {}).values():
        dist.all_reduce(square)
    own = {name: value for name, value in sums.tensors().items() if not name.startswith("squares/")}
    everyone: list[dict[str, Tensor] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    sums.merge([one for one in everyone if one is not None])
    return sums
