"""The slices of the learning loop, built in their order; the hub runs without them when the `ml` extra is not installed.

Heavy packages are imported in worker processes only, so building the services costs nothing; what needs a package that is
missing fails with its name when it is asked for.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from marram.hub.greengrass.service import Greengrass
from marram.hub.identity.pki import Pki
from marram.hub.identity.service import Identity
from marram.hub.objects.service import Objects
from marram.kit.clock import Clock
from marram.kit.db import Db, Migrations
from marram.ml.compilation.service import Compilation
from marram.ml.datasets.service import Datasets
from marram.ml.feedback.service import Feedback
from marram.ml.labelling.service import Labelling
from marram.ml.models.service import Models
from marram.ml.training.service import Training

SLICES: Final = ("datasets", "training", "compilation", "models", "feedback", "labelling")


@dataclass(frozen=True, slots=True)
class Learner:
    services: dict[str, object]
    runners: list[tuple[str, Callable[[], Awaitable[None]]]]
    closers: list[Callable[[], Awaitable[None]]]

    @property
    def packages(self) -> list[str]:
        return [f"marram.ml.{name}" for name in SLICES]


def migrations() -> list[Migrations]:
    here = Path(__file__).parent.parent / "ml"
    return [
        Migrations(slice=name, package=f"marram.ml.{name}") for name in SLICES if (here / name / "migrations").is_dir()
    ]


def build(
    *,
    db: Db,
    objects: Objects,
    identity: Identity,
    pki: Pki,
    greengrass: Greengrass,
    clock: Clock,
    folder: Path,
    account: str,
    region: str,
) -> Learner:
    """`folder` is the hub's; jobs work in DIR/jobs."""

    def check_role(role_arn: str) -> None:
        identity.check_role(role_arn, "sagemaker.amazonaws.com")

    datasets = Datasets(db, objects)
    training = Training(
        db, objects, datasets, folder / "jobs", clock, account=account, region=region, check_role=check_role
    )
    compilation = Compilation(db, objects, datasets, training, folder / "jobs")
    models = Models(db, objects, datasets, training, compilation, greengrass.components, sign=pki.sign)
    labelling = Labelling(db, objects, clock, account=account, region=region, check_role=check_role)
    return Learner(
        services={
            "datasets": datasets,
            "training": training,
            "compilation": compilation,
            "models": models,
            "feedback": Feedback(db, objects),
            "labelling": labelling,
        },
        runners=[("training", training.run), ("compilation", compilation.run), ("labelling", labelling.recover)],
        closers=[compilation.close],
    )
