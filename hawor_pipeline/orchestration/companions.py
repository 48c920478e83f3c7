"""Servers beside Dagster's web UI: a small one for the reports, and TensorBoard.

A browser does not open files of the disk from a page of the web UI, so reports are served under an address of their
own. Both listen on the host of the UI, loopback by default, and end with it.
"""

import functools
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
from pydantic import Field

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.paths import DataPaths

REPORTS_VARIABLE = "HAWOR_REPORTS_ADDRESS"
TENSORBOARD_VARIABLE = "HAWOR_TENSORBOARD_ADDRESS"
REPORTS_ADDRESS = "http://127.0.0.1:3001"
TENSORBOARD_ADDRESS = "http://127.0.0.1:6006"
_STOP_TIMEOUT_S = 10.0


class ReportServer(dg.ConfigurableResource):
    """Address of the reports; `hawor-pipeline ui` starts the server and prints the address."""

    address: str = Field(default="", description=f"Empty: ${REPORTS_VARIABLE}, or {REPORTS_ADDRESS}.")

    def link(self, page: Path) -> dg.UrlMetadataValue:
        """Return a link to a page below the reports' folder."""
        base = self.address or os.environ.get(REPORTS_VARIABLE, REPORTS_ADDRESS)
        return dg.MetadataValue.url(f"{base}/{page.relative_to(DataPaths.default().reports).as_posix()}")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args) -> None:
        """Log nothing: the terminal belongs to Dagster."""


@contextmanager
def reports_served(folder: Path, host: str, port: int) -> Iterator[str]:
    """Serve a folder, read-only, while the block runs; yields the address.

    Raises:
        ConfigError: the port is taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        server = ThreadingHTTPServer((host, port), functools.partial(_Quiet, directory=str(folder)))
    except OSError as error:
        raise ConfigError(f"port {port} for the reports cannot be used ({error}); choose --reports-port") from None
    thread = threading.Thread(target=server.serve_forever, daemon=True, name="reports")
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def tensorboard_served(folder: Path, host: str, port: int) -> Iterator[str | None]:
    """Run TensorBoard over the runs while the block runs; yields its address, or None where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", host, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://{host}:{port}"
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
