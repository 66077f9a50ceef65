"""Components under AWS's names whose work the core itself does: recipes name them as dependencies, deployments configure them.

They have no process here and are FINISHED at once. Any 2.x version that is asked for is met (0.x of StreamManager's peers are
listed with their own line). What we do not have is not listed, so that a recipe that needs it fails by name.
"""

from collections.abc import Mapping
from typing import Final

from marram.core import recipe, semver
from marram.core.errors import Invalid
from marram.core.recipe import Recipe

DEFAULTS: Final[Mapping[str, str]] = {
    "aws.greengrass.Nucleus": "2.18.0",
    "aws.greengrass.NucleusLite": "2.6.0",
    "aws.greengrass.Cli": "2.18.0",
    "aws.greengrass.ShadowManager": "2.3.14",
    "aws.greengrass.clientdevices.Auth": "2.5.6",
    "aws.greengrass.clientdevices.mqtt.Bridge": "2.3.4",
    "aws.greengrass.clientdevices.mqtt.Moquette": "2.3.9",
}


def candidate(name: str, requirements: Mapping[str, str]) -> Recipe | None:
    """Our own version where it fits, else the exact 2.x version somebody names; None when neither does."""
    default = DEFAULTS.get(name)
    if default is None:
        return None
    versions = [semver.parse(default)]
    for text in requirements.values():
        try:
            versions.append(semver.parse(text.lstrip("=v ")))
        except Invalid:
            continue
    ranges = [semver.parse_range(text) for text in requirements.values()]
    for version in versions:
        if version.major == 2 and all(each.covers(version) for each in ranges):
            return _recipe(name, str(version))
    return None


def _recipe(name: str, version: str) -> Recipe:
    nucleus = name in ("aws.greengrass.Nucleus", "aws.greengrass.NucleusLite")
    return recipe.parse(
        {
            "RecipeFormatVersion": recipe.FORMAT,
            "ComponentName": name,
            "ComponentVersion": version,
            "ComponentPublisher": "Marram",
            "ComponentType": "aws.greengrass.nucleus" if nucleus else "aws.greengrass.generic",
            "Manifests": [{}],
        }
    )
