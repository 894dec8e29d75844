"""The cluster files: valid in Ray's own eyes, cheap and closed by default, and without what a node cannot have."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = {"aws": "ray_cluster.yaml", "gcp": "cluster/gcp.yaml", "local": "cluster/onprem.yaml"}
COMMANDS = (
    "setup_commands",
    "head_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("provider", "name"), FILES.items())
def test_ray_takes_the_file(provider, name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(read(name))
    validate_config(prepared)
    assert prepared["provider"]["type"] == provider
    for key in COMMANDS:
        assert all(isinstance(command, str) for command in prepared[key])
    if provider == "local":
        assert prepared["max_workers"] == len(prepared["provider"]["worker_ips"])
        return
    head = prepared["available_node_types"][prepared["head_node_type"]]
    workers = [t for n, t in prepared["available_node_types"].items() if n != prepared["head_node_type"]]
    assert head["resources"] == {"CPU": 0}  # nothing trains there, and it costs little
    assert head["max_workers"] == 0
    assert any("--num-cpus=0" in command for command in prepared["head_start_ray_commands"])
    assert [t["min_workers"] for t in workers] == [0, 0]  # nothing to do, nothing to pay
    assert all(t["resources"]["GPU"] >= 1 for t in workers)
    spot = [
        "InstanceMarketOptions" in t["node_config"]
        or {"provisioningModel": "SPOT"} in t["node_config"].get("scheduling", [])
        for t in workers
    ]
    assert sorted(spot) == [False, True]


@pytest.mark.parametrize("name", FILES.values())
def test_a_file_is_closed_by_default(name):
    cluster = read(name)
    started = " ".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in started
    assert "0.0.0.0" not in started
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"  # the token comes from the user's machine
    assert any("cluster/env.sh" in command for command in cluster["setup_commands"])
    assert "RAY_AUTH_MODE=token" in (ROOT / "cluster/env.sh").read_text()
    assert ".git" in cluster["rsync_exclude"]
    assert cluster["rsync_filter"] == [".gitignore"]  # neither environment nor data travel


def test_a_file_says_what_it_costs_and_how_to_end_it():
    for name in ("ray_cluster.yaml", "cluster/gcp.yaml"):
        head = (ROOT / name).read_text().split("cluster_name")[0]
        assert f"ray down -y {name}" in head
        assert "$" in head
        assert "an hour" in head


def test_aws_nodes_ask_for_the_group_and_role_that_the_script_makes():
    cluster = read("ray_cluster.yaml")
    assert cluster["provider"]["security_group"] == {"GroupName": "symcere-cluster"}
    for kind in cluster["available_node_types"].values():
        assert kind["node_config"]["IamInstanceProfile"] == {"Name": "symcere-cluster"}
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
        assert all(disk["Ebs"]["Encrypted"] for disk in kind["node_config"]["BlockDeviceMappings"])
    script = (ROOT / "cluster/aws.sh").read_text()
    assert "name=symcere-cluster" in script
    assert f'ray-cluster-name": "{cluster["cluster_name"]}"' in script


@pytest.fixture
def fake_aws(tmp_path) -> tuple[Path, Path]:
    """An ``aws`` that writes down how it is called, and a copy of the project's cluster files."""
    calls = tmp_path / "calls"
    tool = tmp_path / "bin" / "aws"
    tool.parent.mkdir()
    tool.write_text(
        f"""#!/bin/sh
echo "$*" | tr '\\n' ' ' >> {calls}; echo >> {calls}
case "$*" in
*get-caller-identity*) echo 123456789012 ;;
*describe-vpcs*) echo vpc-1 ;;
*describe-security-groups*) echo None ;;
*create-security-group*) echo sg-1 ;;
*head-bucket*) exit 1 ;;
esac
"""
    )
    python = tmp_path / "bin" / "python3"
    python.write_text("#!/bin/sh\necho 203.0.113.7\n")  # where it would ask for its address
    for file in (tool, python):
        file.chmod(0o755)
    shutil.copytree(ROOT / "cluster", tmp_path / "project" / "cluster")
    shutil.copy(ROOT / "ray_cluster.yaml", tmp_path / "project")
    return tmp_path / "project", calls


def test_the_script_for_aws_opens_ssh_to_this_address_only(fake_aws, tmp_path):
    project, calls = fake_aws
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    for _ in range(2):  # again does no harm
        done = subprocess.run(
            ["sh", "cluster/aws.sh", "my-data"], cwd=project, env=environment, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
    made = calls.read_text().splitlines()
    opened = [call for call in made if "authorize-security-group-ingress" in call]
    assert all("--port 22 --cidr 203.0.113.7/32" in c or "--source-group sg-1" in c for c in opened)
    assert any("revoke-security-group-ingress" in call and "0.0.0.0/0" in call for call in made)
    assert any("put-public-access-block" in call for call in made)
    policy = next(call for call in made if "put-role-policy" in call)
    assert "arn:aws:s3:::my-data/*" in policy
    assert '"Action": "*"' not in policy
    written = yaml.safe_load((project / "ray_cluster.yaml").read_text())
    assert "s3://my-data/mlflow" in str(written["head_start_ray_commands"])
    assert written["provider"] == read("ray_cluster.yaml")["provider"]
    # The group is made in a region: in another one Ray would make its own, open to the world.
    command = ["sh", "cluster/aws.sh", "my-data", "eu-central-1"]
    subprocess.run(command, cwd=project, env=environment, capture_output=True, check=True)
    provider = yaml.safe_load((project / "ray_cluster.yaml").read_text())["provider"]
    assert provider["region"] == "eu-central-1"
    assert provider["availability_zone"] == "eu-central-1a,eu-central-1b,eu-central-1c"


@pytest.mark.parametrize("file", ["ray_cluster.yaml", "cluster/gcp.yaml"])
def test_the_autoscaler_takes_spot_machines_alone(file):
    """Of two kinds that hold the same it would take both by turns."""
    kinds = read(file)["available_node_types"]
    assert [name for name, kind in kinds.items() if name.startswith("gpu") and kind["max_workers"]] == ["gpu.spot"]


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path):
    def run() -> str:
        done = subprocess.run(
            ["sh", str(ROOT / "cluster/secrets.sh")],
            env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr

    told = run()
    files = [tmp_path / ".ray/auth_token", tmp_path / ".mlflow/credentials"]
    first = [file.read_text() for file in files]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600]
    assert len(first[0]) == 64
    password = first[1].split("mlflow_tracking_password = ")[1].strip()
    assert len(password) == 64
    assert password != first[0]
    assert first[0] not in told
    assert password not in told
    run()
    assert [file.read_text() for file in files] == first


@pytest.mark.parametrize("name", sorted(str(p.relative_to(ROOT)) for p in (ROOT / "cluster").rglob("*.sh")))
def test_scripts_are_plain_sh(name):
    done = subprocess.run(["sh", "-n", str(ROOT / name)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_node_s_environment(tmp_path):
    told = subprocess.run(
        ["sh", "-c", f". {ROOT}/cluster/env.sh; env"],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    env = dict(line.split("=", 1) for line in told.stdout.splitlines() if "=" in line)
    assert env["PATH"].startswith(f"{tmp_path}/symcere/.venv/bin:")
    assert env["RAY_AUTH_MODE"] == "token"
    assert env["SYMCERE_HOME"] == f"{tmp_path}/.symcere"
    if shutil.which("ip"):
        assert env.get("GLOO_SOCKET_IFNAME", "eth0") in {*os.listdir("/sys/class/net"), "eth0"}


# ---------------------------------------------------------------- Kubernetes


def manifests() -> list[dict]:
    files = sorted((ROOT / "cluster/kubernetes").glob("*.yaml"))
    found = [doc for file in files for doc in yaml.safe_load_all(file.read_text())]
    return [doc for doc in found if doc["apiVersion"] == "ray.io/v1"]


@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: m["kind"])
def test_manifests_fit_kuberay(manifest):
    schema = json.loads((ROOT / "cluster/kubernetes/schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(manifest, schema)
    slip = json.loads(json.dumps(manifest))
    slip["spec"]["rayVersoin"] = "2"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(slip, schema)

    crds = os.environ.get("KUBERAY_CRDS")  # a folder with ray.io_rayclusters.yaml and ray.io_rayjobs.yaml
    if crds:
        crd = yaml.load((Path(crds) / f"ray.io_{manifest['kind'].lower()}s.yaml").read_text(), yaml.CSafeLoader)
        version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
        jsonschema.validate(manifest, closed(version["schema"]["openAPIV3Schema"]))


def closed(schema):
    """An OpenAPI schema of a CRD that refuses unknown names, as Kubernetes' strict validation does."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        made.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
        if set(schema["properties"]) >= {"apiVersion", "kind", "metadata", "spec"}:
            made["properties"]["metadata"] = {}
    return made


@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: m["kind"])
def test_pods_are_closed_and_cost_nothing_when_idle(manifest):
    cluster = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["rayVersion"] == re.search(r"^ray==(.+)$", (ROOT / "requirements.lock").read_text(), re.M)[1]
    dockerfile = (ROOT / "cluster/kubernetes/Dockerfile").read_text()
    assert f"rayproject/ray:{cluster['rayVersion']}-" in dockerfile
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        mounted = {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        for variable in (v for c in pod["containers"] for v in c["env"]):
            assert "@" not in variable["value"]  # no password


# ---------------------------------------------------------------- MLflow


def test_the_compose_file_is_closed_and_has_no_secret_of_its_own(tmp_path):
    text = (ROOT / "cluster/mlflow/compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"mlflow": ["${BIND:-127.0.0.1}:5000:5000"]}  # database and store are not reached from outside
    assert "--app-name basic-auth" in services["mlflow"]["command"][-1]
    wanted = set(re.findall(r"\$\{(\w+):\?\}", text))  # no default: without a secret nothing starts
    assert len(wanted) == len(set(re.findall(r"\$\{(\w+)", text)) - {"BIND"})

    shutil.copytree(ROOT / "cluster", tmp_path / "cluster", ignore=shutil.ignore_patterns(".env"))
    for script in ("secrets.sh", "mlflow/dotenv.sh", "mlflow/dotenv.sh"):
        subprocess.run(
            ["sh", str(tmp_path / "cluster" / script)],
            env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
            capture_output=True,
            check=True,
        )
    file = tmp_path / "cluster/mlflow/.env"
    given = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert set(given) == wanted
    assert len(set(given.values())) == len(given)
    assert all(len(value) >= 48 for name, value in given.items() if name != "MLFLOW_USER")
    assert given["MLFLOW_PASSWORD"] in (tmp_path / ".mlflow/credentials").read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert subprocess.run(["git", "-C", str(ROOT), "check-ignore", "-q", "cluster/mlflow/.env"]).returncode == 0
