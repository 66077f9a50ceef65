"""SageMaker's contract for algorithms: folders, configuration files, SM_* variables, arguments. Pure of process control.

Source: the toolkit sagemaker-training 5.1.4 (`to_env_vars`) and "How Amazon SageMaker AI runs your training image". Paths
below are of one job's private folder; a job in a mount namespace sees the same as /opt/ml.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from marram.core import codec
from marram.core.codec import JsonObject
from marram.core.errors import Invalid

FOLDERS: Final = ("input/config", "input/data", "model", "output/data", "output/intermediate", "checkpoints", "code")
RESERVED: Final = ("sagemaker_program", "sagemaker_submit_directory")


def lay_out(root: Path, *, hyperparameters: Mapping[str, str], channels: Mapping[str, JsonObject]) -> None:
    """Make the folders and the three configuration files below `root` (the /opt/ml of the job)."""
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    config = root / "input/config"
    resources: JsonObject = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "lo"}
    for name, value in (
        ("hyperparameters", dict(hyperparameters)),
        ("resourceconfig", resources),
        ("inputdataconfig", dict(channels)),
    ):
        (config / f"{name}.json").write_bytes(codec.dumps(value))


def environment(
    root: Path,
    *,
    job: str,
    job_arn: str,
    hyperparameters: Mapping[str, str],
    channels: Mapping[str, JsonObject],
    program: str,
    cpus: int,
    instance_type: str,
) -> dict[str, str]:
    """The SM_* variables, with paths below `root`."""
    user = {name: value for name, value in hyperparameters.items() if not name.startswith("sagemaker_")}
    names = sorted(channels)
    env = {
        "TRAINING_JOB_NAME": job,
        "TRAINING_JOB_ARN": job_arn,
        "SM_MODEL_DIR": str(root / "model"),
        "SM_INPUT_DIR": str(root / "input"),
        "SM_INPUT_CONFIG_DIR": str(root / "input/config"),
        "SM_OUTPUT_DIR": str(root / "output"),
        "SM_OUTPUT_DATA_DIR": str(root / "output/data"),
        "SM_OUTPUT_INTERMEDIATE_DIR": str(root / "output/intermediate"),
        "SM_CHANNELS": _json(names),
        "SM_HPS": _json(user),
        "SM_USER_ARGS": _json(arguments(hyperparameters)),
        "SM_HOSTS": '["algo-1"]',
        "SM_CURRENT_HOST": "algo-1",
        "SM_NUM_CPUS": str(cpus),
        "SM_NUM_GPUS": "0",
        "SM_NUM_NEURONS": "0",
        "SM_CURRENT_INSTANCE_TYPE": instance_type,
        "SM_CURRENT_INSTANCE_GROUP": "homogeneousCluster",
        "SM_INSTANCE_GROUPS": '["homogeneousCluster"]',
        "SM_NETWORK_INTERFACE_NAME": "lo",
        "SM_LOG_LEVEL": "20",
        "SM_FRAMEWORK_PARAMS": "{}",
        "SM_RESOURCE_CONFIG": (root / "input/config/resourceconfig.json").read_text(),
        "SM_INPUT_DATA_CONFIG": (root / "input/config/inputdataconfig.json").read_text(),
        "SM_MODULE_NAME": program.removesuffix(".py"),
        "SM_MODULE_DIR": str(root / "code"),
        "SM_USER_ENTRY_POINT": program,
    }
    for name in names:
        env[f"SM_CHANNEL_{name.upper().replace('-', '_')}"] = str(root / "input/data" / name)
    for name, value in user.items():
        env[f"SM_HP_{name.upper().replace('-', '_')}"] = value
    return env


def arguments(hyperparameters: Mapping[str, str]) -> list[str]:
    """--name value, sorted; a one-letter name has one dash."""
    argv: list[str] = []
    for name, value in sorted(hyperparameters.items()):
        if not name.startswith("sagemaker_"):
            argv += [f"{'-' if len(name) == 1 else '--'}{name}", value]
    return argv


def failure(root: Path) -> str:
    """What the program wrote for people into output/failure, at most 1,024 characters."""
    try:
        with (root / "output/failure").open("rb") as file:
            return file.read(4096).decode(errors="replace")[:1024]
    except OSError:
        return ""


def check_program(program: str) -> str:
    if not program or "/" in program or program.startswith((".", "-")):
        raise Invalid(f"sagemaker_program {program!r} must be a file at the top of sagemaker_submit_directory")
    return program


def _json(value: object) -> str:
    return codec.dumps(value).decode()
