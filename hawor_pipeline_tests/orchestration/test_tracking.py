"""Links from the page of a run to its curves."""

import json
from pathlib import Path

import pytest

from hawor_pipeline.orchestration.companions import (
    REPORTS_VARIABLE,
    TENSORBOARD_VARIABLE,
    ReportServer,
    reports_served,
)
from hawor_pipeline.orchestration.tracking import WANDB_LINK_FILE, TensorBoardResource, WandbResource


def test_tensorboard_is_linked_with_the_run_chosen(monkeypatch):
    monkeypatch.delenv(TENSORBOARD_VARIABLE, raising=False)
    run = Path("/shared/data/runs/demo-1a2b")
    link = TensorBoardResource().link(run)
    assert link["tensorboard"].url == "http://127.0.0.1:6006/?runFilter=%5Edemo-1a2b%2F#timeseries"
    assert link["tensorboard_command"].text == "tensorboard --logdir /shared/data/runs"
    monkeypatch.setenv(TENSORBOARD_VARIABLE, "http://board:80")
    assert TensorBoardResource().link(run)["tensorboard"].url.startswith("http://board:80/")
    assert TensorBoardResource(enabled=False).link(run) == {}
    assert TensorBoardResource(enabled=False).settings() == {"use_tensorboard": False}


def test_wandb_is_off_unless_asked_for_and_links_what_the_training_wrote(tmp_path):
    assert WandbResource().settings() == {}
    asked = WandbResource(enabled=True, project="hands")
    assert asked.settings() == {"use_wandb": True, "wandb_project": "hands"}
    assert asked.link(tmp_path) == {}
    (tmp_path / WANDB_LINK_FILE).write_text(json.dumps({"url": "https://wandb.ai/x/y/runs/z", "folder": "w"}))
    assert asked.link(tmp_path)["wandb"].url == "https://wandb.ai/x/y/runs/z"
    (tmp_path / WANDB_LINK_FILE).write_text(json.dumps({"url": None, "folder": "w"}))
    assert asked.link(tmp_path)["wandb_sync"].text == "wandb sync w/*run-*"


def test_wandb_settings_do_not_make_another_run():
    from hawor_pipeline.training.runs import MACHINE_KEYS

    settings = WandbResource(enabled=True, project="p", entity="e").settings()
    assert set(settings) | set(TensorBoardResource(enabled=False).settings()) <= MACHINE_KEYS


def test_reports_are_served_on_loopback_and_nothing_above_them(tmp_path, monkeypatch):
    import urllib.error
    import urllib.request

    reports = tmp_path / "data" / "reports"
    (reports / "run").mkdir(parents=True)
    (reports / "run" / "report.html").write_text("<p>report</p>")
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setenv("HAWOR_DATA_DIR", str(tmp_path / "data"))
    with reports_served(reports, "127.0.0.1", 0) as address:
        monkeypatch.setenv(REPORTS_VARIABLE, address)
        url = ReportServer().link(reports / "run" / "report.html").url
        assert urllib.request.urlopen(url, timeout=10).read() == b"<p>report</p>"
        for escape in ("/../../secret.txt", "/%2e%2e/%2e%2e/secret.txt", "/run/../../../secret.txt"):
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(address + escape, timeout=10)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


def test_a_taken_port_is_named():
    from hawor_pipeline.errors import ConfigError

    with reports_served(Path.cwd(), "127.0.0.1", 0) as address:
        port = int(address.rsplit(":", 1)[1])
        with pytest.raises(ConfigError, match=f"port {port}"), reports_served(Path.cwd(), "127.0.0.1", port):
            pass
