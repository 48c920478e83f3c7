"""A training process that runs out of memory above two clips at once."""

import sys

import torch

from hawor_pipeline.orchestration import training_child
from hawor_pipeline.training.module import EnhancedHaWoRTrainer

MOST_CLIPS = 2
_step = EnhancedHaWoRTrainer.training_step


def _limited(self, batch, batch_idx):
    if batch.images.shape[0] > MOST_CLIPS:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return _step(self, batch, batch_idx)


EnhancedHaWoRTrainer.training_step = _limited

if __name__ == "__main__":
    sys.exit(training_child.main())
