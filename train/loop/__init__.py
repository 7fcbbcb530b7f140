"""The training loop: it needs torch, so import it inside functions."""

from sdc.train.loop.checkpoint import Checkpoint
from sdc.train.loop.distributed import World, joined
from sdc.train.loop.fitting import fit
from sdc.train.loop.interrupt import Interrupted, interruptible

__all__ = ["Checkpoint", "Interrupted", "World", "fit", "interruptible", "joined"]
