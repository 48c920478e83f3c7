"""Out of memory: recognised on every device, and answered with settings and amounts."""

import pytest
import torch

from hawor_pipeline.errors import MemoryShortage
from hawor_pipeline.training.callbacks import data_wait_advice
from hawor_pipeline.training.fit import TrainingPipeline
from hawor_pipeline.training.memory import is_memory_shortage, memory_advice
from hawor_pipeline.training.module import EnhancedHaWoRTrainer


def test_torchs_own_messages_are_recognised():
    """The CPU's is provoked for real: more memory than any machine has."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_memory_shortage(error.value)
    assert is_memory_shortage(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_memory_shortage(MemoryShortage("by another name"))
    assert not is_memory_shortage(RuntimeError("shape mismatch"))


def test_a_run_out_of_memory_says_what_to_change_and_by_how_much(tiny, tmp_path, monkeypatch):
    def greedy(self, batch):
        return torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(EnhancedHaWoRTrainer, "predict_batch", greedy)
    with pytest.raises(MemoryShortage, match=r"micro_batches 1 -> 2 \(50% of the activations") as error:
        TrainingPipeline(tiny(batch_size=4), tmp_path).train()
    for words in ("activation_checkpointing: true", "precision: bf16", "frozen_backbone: true", "clip_length 3 -> 1"):
        assert words in str(error.value)


def test_advice_leaves_out_what_is_done_already(tiny):
    """And of the frozen backbone it says how much: twelve bytes per weight of a ViT-B, which has 86 million."""
    saving = tiny(batch_size=1, clip_length=1, precision="bf16", activation_checkpointing=True, frozen_backbone=True)
    assert memory_advice(saving) == ["a smaller backbone_size, or a device with more memory"]
    base = memory_advice(tiny(backbone_size="base", image_size=256))
    assert any("frozen_backbone: true (1.0 GB less" in line for line in base)
    assert "micro_batches 2 -> 4 (50%" in memory_advice(tiny(batch_size=8, micro_batches=2))[0]
    assert "micro_batches 1 -> 3 (33%" in memory_advice(tiny(batch_size=9))[0]


def test_waiting_for_data_names_the_settings_and_what_they_are_now(tiny):
    advice = data_wait_advice(0.37, tiny(num_workers=3, prefetch_factor=5))
    for words in ("37%", "num_workers (now 3", "prefetch_factor (now 5)", "image_size (now 64)"):
        assert words in advice
