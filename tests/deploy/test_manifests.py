"""The names, probes and queries in deploy/ match the application."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import kubernetes_validate
import pytest
import yaml
from sqlalchemy.engine import make_url

from kernel.application import create_app
from kernel.ext.server.settings import ServerProcessSettings
from kernel.extension import load_extensions
from kernel.project import Project
from kernel.settings import CORE_GROUPS, Environment
from kernel.settings.sources import DEFAULT_SECRETS_DIR
from kernel.testing import settings_for

# The oldest minor version that Kubernetes still supports.
_KUBERNETES = "1.34"
# Liveness checks no dependency, because a restart of the pod would not repair one.
_PROBES = {"startup": "/health/startup", "liveness": "/health/live", "readiness": "/health/ready"}
_PROMQL = {"sum", "max", "rate", "and", "or", "topk", "count", "histogram_quantile"}


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    return {"IMAGES_STORAGE_URL": str(tmp_path / "images"), "TELEMETRY_METRICS_TOKEN": "a-token"}


@pytest.fixture(scope="module")
def manifests(root: Path) -> list[dict[str, Any]]:
    folder = root / "deploy" / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(path.name for path in folder.glob("*.yaml") if path.name != "kustomization.yaml")
    return [one for name in listed for one in yaml.safe_load_all((folder / name).read_text())]


@pytest.fixture(scope="module")
def templates(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for one in manifests:
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            found[one["metadata"]["name"]] = spec["template"]
    return found


@pytest.fixture(scope="module")
def pods(templates: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: template["spec"] for name, template in templates.items()}


@pytest.fixture(scope="module")
def policy(manifests: list[dict[str, Any]]) -> dict[str, Any]:
    [found] = [one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"]
    return dict(found)


def test_each_manifest_is_valid_for_kubernetes(manifests: list[dict[str, Any]]) -> None:
    kinds = []
    for one in manifests:
        kubernetes_validate.validate(one, _KUBERNETES, strict=True)
        kinds.append(one["kind"])
    wanted = {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "Job",
        "Secret",
        "NetworkPolicy",
    }
    assert wanted <= set(kinds)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**manifests[0], "misspelled": 1}, _KUBERNETES, strict=True)


def test_every_name_in_a_config_is_a_setting(root: Path, manifests: list[dict[str, Any]], pods: dict[str, Any]) -> None:
    groups = [*CORE_GROUPS.values()] + [one for kind in load_extensions(root) for one in kind.settings]
    known = {group.variable(field) for group in groups for field in group.model_fields} | {"IMAGES_STORAGE_URL"}
    for one in manifests:
        names = set(one.get("data", {})) | set(one.get("stringData", {}))
        assert names <= known, one["metadata"]["name"]
    for pod in pods.values():
        for container in pod["containers"]:
            assert {variable["name"] for variable in container.get("env", [])} <= known


def test_the_settings_of_the_manifests_start_the_application(root: Path, manifests: list[dict[str, Any]]) -> None:
    variables: dict[str, str] = {}
    for one in manifests:
        variables |= one.get("data", {}) | one.get("stringData", {})
    # Production refuses the example values, which another test verifies.
    variables = {
        name: value.replace("change-me", "9f8e7d6c5b4a39281706f5e4d3c2b1a0") for name, value in variables.items()
    }
    variables |= {"IMAGES_STORAGE_URL": "data/images"}
    settings = settings_for(root, variables)
    assert settings.application.environment is Environment.PROD
    create_app(settings)


def test_every_pod_has_the_secret_where_the_settings_look(pods: dict[str, dict[str, Any]]) -> None:
    assert DEFAULT_SECRETS_DIR == "/mnt/secrets"
    for name, pod in pods.items():
        # No pod that serves has the login that migrates.
        secret = {"secretName": "migrate" if name == "migrate" else "application"}
        [volume] = [one["name"] for one in pod["volumes"] if one.get("secret") == secret]
        assert len([one for one in pod["volumes"] if "secret" in one]) == 1
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            [mount] = [one for one in container["volumeMounts"] if one["name"] == volume]
            assert mount == {"name": volume, "mountPath": DEFAULT_SECRETS_DIR, "readOnly": True}, name


def test_the_login_that_serves_gets_the_roles(manifests: list[dict[str, Any]], pods: dict[str, dict[str, Any]]) -> None:
    secrets = {one["metadata"]["name"]: one["stringData"] for one in manifests if one["kind"] == "Secret"}
    serving, migrating = (make_url(secrets[name]["DATABASE_URL"]) for name in ("application", "migrate"))
    [roles] = pods["migrate"]["initContainers"]
    assert roles["args"] == ["roles", "--apply", "--login", serving.username]
    assert serving.username != migrating.username
    assert serving.set(username=migrating.username) == migrating


def test_every_probe_asks_its_own_route_on_a_port_that_is_listened_to(pods: dict[str, dict[str, Any]]) -> None:
    for name, kinds in (("application", set(_PROBES)), ("relay", {"liveness", "readiness"})):
        [container] = pods[name]["containers"]
        ports = {port["name"] for port in container["ports"]}
        probes = {key.removesuffix("Probe"): one["httpGet"] for key, one in container.items() if key.endswith("Probe")}
        assert {kind: asked["path"] for kind, asked in probes.items()} == {kind: _PROBES[kind] for kind in kinds}
        assert {asked["port"] for asked in probes.values()} <= ports


def test_a_pod_has_the_fewest_rights_that_suffice(pods: dict[str, dict[str, Any]]) -> None:
    for pod in pods.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}


def test_the_network_policies_cover_every_pod_in_both_directions(
    policy: dict[str, Any], templates: dict[str, dict[str, Any]]
) -> None:
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert policy["podSelector"] == {"matchLabels": {"app": "application"}}
    for name, template in templates.items():
        assert template["metadata"]["labels"]["app"] == "application", name


def test_only_named_sources_reach_a_pod(policy: dict[str, Any]) -> None:
    """An empty rule, or an empty selector in a rule, allows every source."""
    for rule in policy["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= {8000, 9090}
        assert rule["from"]
        for peer in rule["from"]:
            assert peer
            assert peer.keys() <= {"podSelector", "namespaceSelector"}
            assert all(selector.get("matchLabels") for selector in peer.values())


def test_a_pod_reaches_the_services_that_it_needs_but_not_the_metadata_service(policy: dict[str, Any]) -> None:
    for rule in policy["egress"]:
        ports = {port["port"] for port in rule["ports"]}
        # Rules for all addresses allow only the ports of a database and of Redis.
        assert ports
        assert rule.get("to") or ports <= {5432, 6379}
        for peer in rule.get("to", []):
            if "ipBlock" in peer:
                assert peer["ipBlock"]["except"] == ["169.254.0.0/16"]
            else:
                assert peer
                assert all(selector.get("matchLabels") for selector in peer.values())


def test_a_pod_has_time_to_stop(root: Path, pods: dict[str, dict[str, Any]]) -> None:
    issuer = {"AUTH_ISSUER": "https://id.example", "AUTH_AUDIENCE": "api"}
    settings = settings_for(root, {"ENVIRONMENT": "prod", "DATABASE_URL": "postgresql://u:9f8e@h/d", **issuer})
    server = settings.group(ServerProcessSettings)
    needed = server.drain_seconds + server.graceful_shutdown_timeout_seconds + server.close_timeout_seconds
    assert pods["application"]["terminationGracePeriodSeconds"] > needed


def test_the_ingress_lets_only_the_api_through(manifests: list[dict[str, Any]]) -> None:
    [ingress] = [one for one in manifests if one["kind"] == "Ingress"]
    paths = [path["path"] for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
    assert paths == ["/api"]


@pytest.mark.integration
def test_the_alerts_fire_when_they_should(root: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert not os.environ.get("CI"), "CI installs promtool (.ci/run)"
        pytest.skip("promtool is not installed (Debian: prometheus)")
    folder = root / "deploy" / "prometheus"
    for words in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]):
        done = subprocess.run([promtool, *words], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def expressions(root: Path) -> list[str]:
    """Return the Prometheus expressions of the dashboard and the alerts."""
    dashboard = json.loads((root / "deploy" / "grafana" / "dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((root / "deploy" / "prometheus" / "alerts.yaml").read_text())
    return found + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


async def test_the_dashboard_and_the_alerts_use_metrics_that_are_served(root: Path, project: Project) -> None:
    """On any database: metrics that only PostgreSQL has are served without a value on others."""
    app = create_app(*project)
    transport = httpx2.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport, base_url="http://t") as client:
        text = (await client.get("/metrics", headers={"Authorization": "Bearer a-token"})).text
    told = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) | {"up"}
    for expression in expressions(root):
        plain = re.sub(r'\{[^}]*\}|"[^"]*"|\[[^\]]*\]|by \([^)]*\)', "", expression)
        names = set(re.findall(r"[a-z_]{2,}", plain)) - _PROMQL
        assert names, expression
        assert {name.removesuffix("_count").removesuffix("_bucket") for name in names} <= told, expression
