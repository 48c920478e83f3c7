"""What is under deploy/: manifests fit the schemas, GPU steps ask for a GPU, the CI workflow's commands work."""

import subprocess
from pathlib import Path

import pytest
import yaml

import hawor_pipeline
from hawor_pipeline_tests.conftest import project_environment

ROOT = Path(hawor_pipeline.__file__).parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.31"


def deployment() -> dict:
    values = yaml.safe_load((DEPLOY / "kubernetes" / "values.yaml").read_text())
    (found,) = values["dagster-user-deployments"]["deployments"]
    return found


def validate(manifest: dict) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="the extra `engines` is not installed")
    schemas.validate(manifest, KUBERNETES, strict=True)


def test_storage_manifests_fit_the_schema():
    for manifest in yaml.safe_load_all((DEPLOY / "kubernetes" / "storage.yaml").read_text()):
        validate(manifest)


@pytest.mark.parametrize(
    ("asset", "gpus"), [("trained_checkpoint", "1"), ("evaluation_metrics", "1"), ("subject_shards", None)]
)
def test_step_jobs_render_and_only_gpu_steps_ask_for_a_gpu(asset, gpus):
    """The Kubernetes job that dagster-k8s makes of a step, with the environment and volumes of values.yaml."""
    job = pytest.importorskip("dagster_k8s.job", reason="the extra `k8s` is not installed")
    from hawor_pipeline.orchestration.build import build_defs

    here = deployment()
    step = build_defs().resolve_job_def("full_pipeline_job").graph.node_named(asset)
    image = f"{here['image']['repository']}:{here['image']['tag']}"
    rendered = job.construct_dagster_k8s_job(
        job.DagsterK8sJobConfig(
            job_image=image,
            dagster_home="/opt/dagster/dagster_home",
            volumes=here["volumes"],
            volume_mounts=here["volumeMounts"],
            env_secrets=[secret["name"] for secret in here["envSecrets"]],
        ),
        args=["dagster", "api", "execute_step"],
        job_name="step",
        user_defined_k8s_config=job.get_user_defined_k8s_config(step.definition.tags),
        env_vars=here["env"],
    )
    import kubernetes.client

    manifest = kubernetes.client.ApiClient().sanitize_for_serialization(rendered)
    validate(manifest)
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image
    assert container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu") == gpus
    assert {"name": "HAWOR_ENGINE", "value": "k8s"} in container["env"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/raw", "/data"}


def test_no_secret_is_in_the_files():
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            for line in path.read_text().splitlines():
                name, _, value = line.partition(":")
                if "password" in name.lower():
                    assert "env:" in value, f"{path}: {line}"


def test_the_image_copies_what_exists():
    lines = (DEPLOY / "docker" / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert len(copied) >= 5
    for name in copied:
        assert (ROOT / name).exists(), name


def workflow_steps() -> dict[str, str]:
    workflow = yaml.safe_load((DEPLOY / "ci" / "github-actions.yml").read_text())
    return {step["name"]: step["run"] for step in workflow["jobs"]["pipeline"]["steps"] if "run" in step}


def test_make_targets_of_the_workflow_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [command.split()[1] for command in workflow_steps().values() if command.startswith("make ")]
    assert targets == ["setup", "check", "test"]
    for target in targets:
        assert f"\n{target}: " in makefile


@pytest.mark.engine
def test_the_pipeline_step_of_the_workflow_runs_as_it_stands(tmp_path):
    import sys

    for name in ("configs", "dagster.yaml", "workspace.yaml", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    command = workflow_steps()["Pipeline on the sample"]
    done = subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=tmp_path,
        env=project_environment(),
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert list(tmp_path.glob("data/reports/*/report.html"))
