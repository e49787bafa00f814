"""Work in processes that may hang, crash or lose their device without ending the run: the one pool of `bench`."""

from .batches import Batch, Done, Ending, Loss, run_here
from .pool import Pool, one_thread

__all__ = ["Batch", "Done", "Ending", "Loss", "Pool", "one_thread", "run_here"]
