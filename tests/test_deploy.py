"""The files under deploy/ and the Containerfile: they parse, name keys that exist, agree on ports and addresses.

That nginx and HAProxy take theirs, and serve by them, is shown in e2e/test_balancers.py.
"""

from __future__ import annotations

import configparser
import fnmatch
import ipaddress
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from balancers import DEPLOY, ROOT

from wd_trio.addresses import parse_listen
from wd_trio.cli import main
from wd_trio.config import Config
from wd_trio.config_load import load

KUBERNETES = DEPLOY / "kubernetes"
CONTAINERFILE = (ROOT / "Containerfile").read_text("utf-8")
MEMBERS = ("mail-1", "mail-2", "mail-3")
PORTS = {
    section: parse_listen(getattr(Config(), section).listen[0]).port
    for section in ("imap", "pop3", "lmtp", "api")
}


def kubernetes(kind: str) -> dict[str, Any]:
    """The one object of a kind."""
    objects = [
        document
        for path in sorted(KUBERNETES.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text("utf-8"))
    ]
    (found,) = [each for each in objects if each["kind"] == kind]
    assert isinstance(found, dict)
    return found


def compose() -> dict[str, Any]:
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    assert isinstance(document, dict)
    return document


def container() -> dict[str, Any]:
    (found,) = kubernetes("Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def image_environment() -> dict[str, str]:
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", CONTAINERFILE, re.MULTILINE)
    pairs = [word.split("=", 1) for word in shlex.split(block.replace("\\\n", " "))]
    return {name: value for name, value in pairs if name.startswith("WD_TRIO_")}


def at(config: Config) -> dict[str, str]:
    return {section: getattr(config, section).listen[0] for section in PORTS}


# --- the image --------------------------------------------------------------------------------------------


def test_the_image_serves_the_embedded_store_on_the_usual_ports() -> None:
    config = load(None, image_environment())
    assert config.store.url == "sqlite:/data/wd-trio.db"
    assert at(config) == {section: f"0.0.0.0:{port}" for section, port in PORTS.items()}
    (exposed,) = re.findall(r"^EXPOSE (.*)$", CONTAINERFILE, re.MULTILINE)
    assert sorted(int(port) for port in exposed.split()) == sorted(PORTS.values())


def test_the_image_has_two_stages_on_one_base_and_no_root() -> None:
    assert re.findall(r"^(?:ARG|FROM) .*$", CONTAINERFILE, re.MULTILINE) == [
        "ARG BASE_IMAGE=docker.io/library/python:3.12-slim-bookworm",
        "FROM ${BASE_IMAGE} AS build",
        "FROM ${BASE_IMAGE}",
    ]
    (user,) = re.findall(r"^USER (\d+):(\d+)$", CONTAINERFILE, re.MULTILINE)
    assert "0" not in user
    pod = kubernetes("Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert user == (str(pod["runAsUser"]), str(pod["runAsGroup"]))


def test_the_images_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert 'CMD ["wd-trio", "health", "--live"]' in CONTAINERFILE
    assert 'ENTRYPOINT ["wd-trio"]\nCMD ["serve"]' in CONTAINERFILE
    for command in (["health", "--live"], ["serve"], ["reload"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
        assert ended.value.code == 0
    capsys.readouterr()


def test_all_that_is_copied_is_in_the_builds_context() -> None:
    lines = (ROOT / ".containerignore").read_text("utf-8").splitlines()
    assert "*" in lines
    allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]
    copied = re.findall(r"^COPY ([^-].*) \S+$", CONTAINERFILE, re.MULTILINE)
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in allowed), name


# --- compose ----------------------------------------------------------------------------------------------


def test_composes_servers_have_a_whole_configuration_and_names_of_their_own() -> None:
    services = compose()["services"]
    for name in MEMBERS:
        environment = services[name]["environment"]
        config = load(None, image_environment() | environment)
        assert config.store.url.startswith("mongodb://")
        assert config.redis.url == "redis://redis/0"
        assert "WD_TRIO_SERVER__HOSTNAME" not in environment  # one name for three would mix their sessions
    assert [services[name]["hostname"] for name in MEMBERS] == list(MEMBERS)


def test_composes_servers_believe_nginx_alone() -> None:
    document = compose()
    services = document["services"]
    (subnet,) = [each["subnet"] for each in document["networks"]["mail"]["ipam"]["config"]]
    addresses = {
        name: service["networks"]["mail"]["ipv4_address"]
        for name, service in services.items()
        if isinstance(service["networks"], dict)
    }
    assert len(set(addresses.values())) == len(addresses) == 4
    assert all(ipaddress.ip_address(each) in ipaddress.ip_network(subnet) for each in addresses.values())
    config = load(None, services["mail-1"]["environment"])
    assert config.server.proxy_networks == (f"{addresses['nginx']}/32",)


def test_composes_engines_are_those_that_the_urls_name() -> None:
    document = compose()
    services = document["services"]
    url = services["mail-1"]["environment"]["WD_TRIO_STORE__URL"]
    hosts, _, options = url.removeprefix("mongodb://").partition("/")
    for host in hosts.split(","):
        command = services[host]["command"]
        assert options.endswith(f"?replicaSet={command[command.index('--replSet') + 1]}")
    volumes = [each.split(":")[0] for service in services.values() for each in service.get("volumes", ())]
    assert {each for each in volumes if not each.startswith(".")} == set(document["volumes"])
    assert all((DEPLOY / each).exists() for each in volumes if each.startswith("."))
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)


def test_compose_publishes_what_nginx_listens_on() -> None:
    listened = set(re.findall(r"\blisten (\d+);", (DEPLOY / "nginx.conf").read_text("utf-8")))
    published = [text.split(":") for text in compose()["services"]["nginx"]["ports"]]
    assert {target for _, _, target in published} == listened
    assert all(address == "127.0.0.1" for address, _, _ in published)  # nothing ends TLS there
    assert {int(port) for _, port, _ in published} == set(PORTS.values())


# --- the balancers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nginx.conf", "haproxy.cfg"])
def test_balancers_know_every_server_at_every_port(name: str) -> None:
    found = re.findall(r"\b(mail-\d):(\d+)", (DEPLOY / name).read_text("utf-8"))
    assert sorted(found) == sorted((member, str(port)) for member in MEMBERS for port in PORTS.values())


def test_no_balancer_knows_affinity() -> None:
    nginx, haproxy = ((DEPLOY / name).read_text("utf-8") for name in ("nginx.conf", "haproxy.cfg"))
    assert nginx.count("least_conn;") == nginx.count("upstream ") == 4
    assert not re.search(r"^\s*(?:ip_)?hash\b", nginx, re.MULTILINE)
    assert "balance leastconn\n" in haproxy
    assert not re.search(r"^\s*(?:stick|cookie|hash)", haproxy, re.MULTILINE)
    assert haproxy.count("option httpchk GET /health\n") == haproxy.count("\nbackend ") == 4


# --- kubernetes -------------------------------------------------------------------------------------------


def test_every_key_that_a_pod_is_given_exists() -> None:
    given = {each["name"]: each.get("value") for each in container()["env"]}
    secrets = {
        "WD_TRIO_STORE__URL": "mongodb://db/wd_trio?replicaSet=rs",
        "WD_TRIO_REDIS__URL": "redis://cache/0",
        "WD_TRIO_API__ACCESS_TOKEN": "0" * 48,
    }
    assert {name for name, value in given.items() if value is None} == set(secrets)
    config = load(None, image_environment() | given | secrets)
    assert config.server.workers == int(container()["resources"]["requests"]["cpu"])
    assert config.server.hostname == ""
    keys = {each["valueFrom"]["secretKeyRef"]["key"] for each in container()["env"] if "valueFrom" in each}
    told = (KUBERNETES / "kustomization.yaml").read_text("utf-8")
    assert keys == set(re.findall(r"--from-literal=([a-z-]+)=", told))


def test_pods_listen_where_the_image_does_and_the_service_finds_them() -> None:
    ports = {each["name"]: each["containerPort"] for each in container()["ports"]}
    assert ports == PORTS
    service = kubernetes("Service")["spec"]
    assert {each["targetPort"] for each in service["ports"]} == set(ports)
    labels = kubernetes("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert service["sessionAffinity"] == "None"
    monitor = kubernetes("ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= kubernetes("Service")["metadata"]["labels"].items()
    assert [(each["port"], each["path"]) for each in monitor["endpoints"]] == [("api", "/metrics")]
    assert "api" in {each["name"] for each in service["ports"]}


def test_liveness_asks_no_engine_and_readiness_does() -> None:
    probes = {name: probe for name, probe in container().items() if name.endswith("Probe")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {
        "startupProbe": "/health/live",
        "livenessProbe": "/health/live",
        "readinessProbe": "/health",
    }
    assert all(probe["timeoutSeconds"] > 2 for probe in probes.values())  # both answer within two
    spec = kubernetes("Deployment")["spec"]["template"]["spec"]
    pause = int(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= pause + 10


def test_two_to_ten_servers_at_seventy_percent() -> None:
    scaler = kubernetes("HorizontalPodAutoscaler")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 10)
    (metric,) = scaler["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}
    deployment = kubernetes("Deployment")
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    selector = kubernetes("PodDisruptionBudget")["spec"]["selector"]
    assert selector == deployment["spec"]["selector"]


def test_what_kustomize_is_told_is_there() -> None:
    named = set(kubernetes("Kustomization")["resources"])
    assert named == {path.name for path in KUBERNETES.glob("*.yaml")} - {
        "kustomization.yaml",
        "servicemonitor.yaml",  # its kind exists only where the operator does
    }


# --- systemd ----------------------------------------------------------------------------------------------


def test_the_unit_tells_systemd_the_truth() -> None:
    unit = configparser.RawConfigParser(strict=True, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names keep their case
    unit.read(DEPLOY / "wd-trio.service")
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    assert int(service["LimitNOFILE"]) >= 2 * Config().limits.connections
    assert int(service["TimeoutStopSec"]) > 10
    for key, command in (("ExecStart", "serve"), ("ExecReload", "reload")):
        program, *arguments = shlex.split(service[key])
        assert Path(program).name == "wd-trio"
        assert arguments[0] == command
    assert service["ExecStart"].split()[2:] == service["ExecReload"].split()[2:]


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed: the unit's grammar goes unjudged")
    unit = tmp_path / "wd-trio.service"
    unit.write_text(
        (DEPLOY / "wd-trio.service").read_text("utf-8").replace("/opt/wd-trio/bin/wd-trio", "/bin/true")
    )
    done = subprocess.run(
        [program, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
