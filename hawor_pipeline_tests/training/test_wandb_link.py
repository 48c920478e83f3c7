"""Weights & Biases without a key: offline, without a question, and the run says where its files are."""

import json

from hawor_pipeline.training.fit import TrainingPipeline


def test_an_offline_run_says_what_to_send(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no .netrc
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = tmp_path / "run"
    TrainingPipeline(tiny(max_steps=2, use_wandb=True), run).train()
    link = json.loads((run / "wandb.json").read_text())
    assert link["url"] is None
    offline = list((run / "logs" / "wandb").glob("offline-run-*"))
    assert len(offline) == 1
    assert str(offline[0].parent) == link["folder"]
    assert offline[0].name.endswith("-run")  # named after the run's folder
