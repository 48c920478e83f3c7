"""PostgreSQL as the instance's database, and an S3-compatible server as the store of results."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from hawor_pipeline.remote import INDEX_FILE, local_copy
from hawor_pipeline.shards.store import open_shards, shards_version
from hawor_pipeline_tests.conftest import REPOSITORY, project_environment
from hawor_pipeline_tests.orchestration.daemon import free_ports

pytestmark = pytest.mark.engine


def prepare_s05(environment: dict[str, str], where: Path) -> subprocess.CompletedProcess:
    """Run the job that inventories and converts one subject."""
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "hawor_pipeline.definitions"]
    command += ["-j", "prepare_data_job", "--tags", '{"dagster/partition": "s05"}']
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=280)


@pytest.fixture
def deployment(finished_project: Path, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a deployment with its own data directory, on the raw sample of the finished project."""
    sample = finished_project / "data" / "sample"
    return {
        **project_environment(),
        "HAWOR_DATA_DIR": str(tmp_path / "data"),
        "ARCTIC_ROOT": str(sample / "arctic"),
        "MANO_DIR": str(sample / "body_models" / "mano"),
    }


class Postgres:
    """Start a PostgreSQL server, as another user if needed (it refuses root)."""

    def __init__(self, home: Path):
        self.programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        self.home, self.port = home, free_ports(1)[0]
        self.prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.home.mkdir(mode=0o777)
        os.chmod(self.home, 0o777)
        self._run("initdb", "-D", f"{home}/data", "-U", "hawor", "-A", "trust")

    def _run(self, program: str, *words: str) -> None:
        subprocess.run([*self.prefix, str(self.programs / program), *words], check=True, capture_output=True, cwd="/")

    def start(self) -> None:
        options = f"-p {self.port} -k {self.home} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-D", f"{self.home}/data", "-l", f"{self.home}/log", "-w", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", f"{self.home}/data", "-m", "immediate", "-w", "stop")


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    pytest.importorskip("dagster_postgres", reason="the extra `postgres` is not installed")
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    home = Path("/tmp") / f"hawor-postgres-{os.getpid()}"  # sockets need a short path that another user may enter
    server = Postgres(home)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.campaign
def test_postgres_holds_the_history_and_a_lost_connection_loses_nothing(postgres, deployment, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(REPOSITORY / "deploy" / "postgres" / "dagster.yaml", home)
    settings = {
        "DAGSTER_HOME": str(home),
        "DAGSTER_PG_HOST": "127.0.0.1",
        "DAGSTER_PG_PORT": str(postgres.port),
        "DAGSTER_PG_USERNAME": "hawor",
        "DAGSTER_PG_PASSWORD": "unused",
        "DAGSTER_PG_DB": "postgres",
        "DAGSTER_ARTIFACTS": str(home / "artifacts"),
    }
    first = prepare_s05({**deployment, **settings}, tmp_path)
    assert first.returncode == 0, first.stderr[-4000:]
    manifest = tmp_path / "data" / "shards" / "synthetic" / "s05" / "manifest.json"
    before = manifest.read_bytes()
    postgres.stop()
    lost = prepare_s05({**deployment, **settings}, tmp_path)
    assert lost.returncode == 1
    assert manifest.read_bytes() == before
    postgres.start()
    again = prepare_s05({**deployment, **settings}, tmp_path)
    assert again.returncode == 0, again.stderr[-4000:]
    assert "subject_shards: 1 of 1 reused" in again.stderr
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        statuses = [run.status for run in instance.get_runs()]
        assert statuses == [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.SUCCESS]
        records = instance.fetch_materializations(dg.AssetKey("subject_shards"), limit=5).records
        assert [record.asset_materialization.metadata["reused"].value for record in records] == [True, False]


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    """Start an S3-compatible server and create a bucket."""
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=free_ports(1)[0], verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server._server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("hawor")
    yield "s3://hawor/team"
    server.stop()


def test_results_are_published_to_s3_and_read_from_there(bucket, deployment, tmp_path, monkeypatch):
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    environment = {**deployment, **keys, "HAWOR_REMOTE_URL": bucket, "DAGSTER_HOME": str(tmp_path)}
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    done = prepare_s05(environment, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"published {bucket}/shards/synthetic/s05" in done.stderr
    assert "secret-of-the-test" not in done.stderr + done.stdout
    made = tmp_path / "data" / "shards" / "synthetic"
    monkeypatch.setenv("HAWOR_DATA_DIR", str(tmp_path / "elsewhere"))  # another machine
    remote = f"{bucket}/shards/synthetic"
    here = {p.relative_to(made).as_posix(): p.read_bytes() for p in (made / "s05").rglob("*") if p.is_file()}
    copy = local_copy(remote)
    there = {p.relative_to(copy).as_posix(): p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert there == here and INDEX_FILE not in there
    assert shards_version(remote) == shards_version(made)
    assert open_shards(remote).table.num_rows == open_shards(made).table.num_rows > 0


def test_a_store_that_is_away_is_a_clear_error_and_local_results_stay(deployment, tmp_path):
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    away = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    environment = {**deployment, **away, "HAWOR_REMOTE_URL": "s3://hawor/team", "DAGSTER_HOME": str(tmp_path)}
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    done = prepare_s05(environment, tmp_path)
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "secret-of-the-test" not in done.stderr + done.stdout
    assert list((tmp_path / "data" / "raw").rglob("inventory.parquet"))
