"""The files of data/serving: valid YAML of the right shape, saying the same things. References: the schemas below, from
Kubernetes' and Ray's own references; and the installed vLLM's flags, where it is installed."""

import re
import subprocess

import jsonschema
import pytest
import yaml

from lessonlib.corpora import DATA
from lessonlib.serving.engine import serving_python

SERVING = DATA / "serving"
SHELL = (SERVING / "ray_vllm.sh").read_text("utf8")

text, count, names = {"type": "string"}, {"type": "integer", "minimum": 1}, {"type": "object"}


def shape(required: dict, **optional) -> dict:
    """A schema: an object with these keys and no others."""
    return {
        "type": "object",
        "properties": required | optional,
        "required": list(required),
        "additionalProperties": False,
    }


def each(item: dict) -> dict:
    return {"type": "array", "items": item, "minItems": 1}


META = shape({"name": {"type": "string", "pattern": "^[a-z0-9-]+$"}}, labels=names)
PROBE = shape(
    {"httpGet": shape({"path": {"const": "/health"}, "port": text}), "periodSeconds": count},
    failureThreshold=count,
    timeoutSeconds=count,
)
CONTAINER = shape(
    {
        "name": text,
        "image": {"type": "string", "pattern": r":v\d+\.\d+\.\d+$"},
        "args": each({"type": "string", "pattern": r"^(--[a-z-]+(=.+)?|[a-z]+=/models/adapters/[a-z]+)$"}),
        "env": each(shape({"name": text, "value": text})),
        "ports": each(shape({"name": text, "containerPort": count})),
        "resources": shape({"requests": names, "limits": names}),
        "startupProbe": PROBE,
        "readinessProbe": PROBE,
        "livenessProbe": PROBE,
        "volumeMounts": each(shape({"name": text, "mountPath": text}, readOnly={"type": "boolean"})),
    }
)
POD = shape(
    {
        "containers": each(CONTAINER),
        "volumes": each(shape({"name": text}, persistentVolumeClaim=names, emptyDir=names)),
        "automountServiceAccountToken": {"const": False},
    }
)
KINDS = {
    "PersistentVolumeClaim": shape({"accessModes": each(text), "resources": names}),
    "Deployment": shape(
        {
            "replicas": count,
            "selector": names,
            "template": shape({"metadata": shape({"labels": names}), "spec": POD}),
        }
    ),
    "Service": shape(
        {
            "type": {"const": "ClusterIP"},
            "selector": names,
            "ports": each(shape({"name": text, "port": count, "targetPort": text})),
        }
    ),
}
LLM = shape(
    {
        "model_loading_config": shape({"model_id": text, "model_source": text}),
        "accelerator_type": text,
        "engine_kwargs": names,
        "lora_config": shape(
            {
                "dynamic_lora_loading_path": {"type": "string", "pattern": "^(s3|gs|abfss|azure)://"},
                "max_num_adapters_per_replica": count,
            }
        ),
        "deployment_config": shape({"autoscaling_config": shape({"min_replicas": count, "max_replicas": count})}),
    }
)
RAY = shape(
    {
        "applications": each(
            shape(
                {
                    "name": text,
                    "route_prefix": {"const": "/"},
                    "import_path": {"const": "ray.serve.llm:build_openai_app"},
                    "args": shape({"llm_configs": each(LLM)}),
                }
            )
        )
    }
)


@pytest.fixture(scope="module")
def kubernetes():
    documents = yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text("utf8"))
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def container(kubernetes):
    return kubernetes["Deployment"]["spec"]["template"]["spec"]["containers"][0]


@pytest.fixture(scope="module")
def ray():
    return yaml.safe_load((SERVING / "ray_serve.yaml").read_text("utf8"))


def test_the_kubernetes_file_has_the_shape_that_kubernetes_asks_for(kubernetes):
    assert set(kubernetes) == set(KINDS)
    for kind, document in kubernetes.items():
        version = {"const": "apps/v1" if kind == "Deployment" else "v1"}
        jsonschema.validate(
            document, shape({"apiVersion": version, "kind": text, "metadata": META, "spec": KINDS[kind]})
        )


def test_deployment_service_and_volumes_find_one_another(kubernetes, container):
    deployment = kubernetes["Deployment"]["spec"]
    pod = deployment["template"]
    assert deployment["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert kubernetes["Service"]["spec"]["selector"] == pod["metadata"]["labels"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in kubernetes["Service"]["spec"]["ports"]} <= ports
    probes = [container[name]["httpGet"]["port"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert set(probes) <= ports
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == kubernetes["PersistentVolumeClaim"]["metadata"]["name"]


def test_each_replica_asks_for_as_many_gpus_as_share_its_matrices(container):
    parts = next(arg.split("=")[1] for arg in container["args"] if arg.startswith("--tensor-parallel-size"))
    asked = container["resources"]
    assert asked["requests"]["nvidia.com/gpu"] == asked["limits"]["nvidia.com/gpu"] == parts


def test_the_ray_file_has_the_shape_that_ray_serve_asks_for(ray):
    jsonschema.validate(ray, RAY)


def test_ray_keeps_as_many_adapters_as_a_batch_can_mix(ray):
    # Ray Serve's page on several adapters: the two numbers must be the same.
    model = ray["applications"][0]["args"]["llm_configs"][0]
    assert model["engine_kwargs"]["max_loras"] == model["lora_config"]["max_num_adapters_per_replica"]
    assert model["engine_kwargs"]["enable_lora"] is True


def test_the_shell_file_is_a_shells():
    assert subprocess.run(["bash", "-n"], input=SHELL, text=True).returncode == 0
    assert re.search(r"--tensor-parallel-size 4 --pipeline-parallel-size 2 --distributed-executor-backend ray", SHELL)


@pytest.mark.parametrize("file", ["README.md", "ray_vllm.sh", "ray_serve.yaml", "kubernetes.yaml"])
def test_each_file_says_that_it_was_not_executed(file):
    assert "Not executed for this course" in (SERVING / file).read_text("utf8")


@pytest.mark.serving
@pytest.mark.skipif(serving_python() is None, reason="no vLLM here: run `make serve-env`")
def test_each_flag_is_one_that_the_installed_vllm_knows(container, ray):
    asked = {arg.split("=")[0].removeprefix("--") for arg in container["args"] if arg.startswith("--")}
    asked |= set(re.findall(r"--([a-z-]+)", SHELL[SHELL.index("vllm serve") :]))
    kwargs = ray["applications"][0]["args"]["llm_configs"][0]["engine_kwargs"]
    asked |= {name.replace("_", "-") for name in kwargs}
    command = [serving_python(), "-m", "vllm.entrypoints.openai.api_server", "--help=all"]
    known = subprocess.run(command, capture_output=True, text=True, timeout=240).stdout
    assert len(asked) > 12
    assert not {flag for flag in asked if f"--{flag}" not in known}
