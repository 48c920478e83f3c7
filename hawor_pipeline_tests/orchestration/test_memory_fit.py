"""Out of memory leads to more and smaller parts of the same batch, never to another batch."""

import pytest

from hawor_pipeline.errors import MemoryShortage
from hawor_pipeline.orchestration.memory_fit import known_parts, next_parts, train_within_memory


class Trainer:
    """Stand-in whose memory fits a given number of clips."""

    def __init__(self, batch_size: int, holds: int):
        self.batch_size, self.holds, self.tried = batch_size, holds, []

    def __call__(self, parts: int) -> None:
        self.tried.append(parts)
        if self.batch_size // parts > self.holds:
            raise MemoryShortage("CUDA out of memory.")


@pytest.mark.parametrize(("batch_size", "holds", "tried"), [(16, 16, [1]), (16, 5, [1, 2, 4]), (12, 1, [1, 2, 4, 12])])
def test_parts_grow_until_they_fit_and_are_remembered(tmp_path, batch_size, holds, tried):
    trainer, said = Trainer(batch_size, holds), []
    assert train_within_memory(trainer, tmp_path, "A100", batch_size, said.append) == tried[-1]
    assert trainer.tried == tried
    assert len(said) == len(tried) - 1
    assert all("same clips per optimiser step" in line for line in said)
    assert known_parts(tmp_path, "A100") == tried[-1]
    assert known_parts(tmp_path, "another device") == 1
    again = Trainer(batch_size, holds)
    train_within_memory(again, tmp_path, "A100", batch_size, said.append)
    assert again.tried == tried[-1:]


def test_when_one_clip_is_too_much_the_message_names_what_helps(tmp_path):
    with pytest.raises(MemoryShortage, match=r"activation_checkpointing.*clip_length"):
        train_within_memory(Trainer(4, 0), tmp_path, "A100", 4, lambda line: None)


def test_parts_are_equal():
    for batch_size in range(1, 65):
        parts = 1
        while (more := next_parts(parts, batch_size)) is not None:
            assert batch_size % more == 0
            assert more >= 2 * parts
            parts = more
        assert parts == batch_size
