"""Resolution: one version each, dependencies first, and refusals that name who wanted what."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marram.core import plan, recipe, semver
from marram.core.plan import Plan, Unresolvable


def component(
    name: str, version: str, needs: dict[str, str] | None = None, soft: tuple[str, ...] = ()
) -> recipe.Recipe:
    return recipe.parse(
        {
            "RecipeFormatVersion": recipe.FORMAT,
            "ComponentName": name,
            "ComponentVersion": version,
            "ComponentDependencies": {
                other: {"VersionRequirement": text, "DependencyType": "SOFT" if other in soft else "HARD"}
                for other, text in (needs or {}).items()
            },
            "Manifests": [],
        }
    )


def run(roots: dict[str, dict[str, str]], *known: recipe.Recipe) -> Plan:
    questions = plan.resolve(roots)
    try:
        asked = next(questions)
        while True:
            by_version = {each.version: each for each in known if each.name == asked.name}
            best = plan.best(list(by_version), asked.requirements)
            asked = questions.send(by_version[best] if best is not None else None)
    except StopIteration as stop:
        found: Plan = stop.value
        return found


def versions(found: Plan) -> dict[str, str]:
    return {name: str(each.version) for name, each in found.recipes.items()}


def test_the_highest_that_all_requirements_cover() -> None:
    found = run(
        {"a": {"group": "1.0.0"}, "b": {"group": "1.0.0"}},
        component("a", "1.0.0", {"c": "^1.0.0"}),
        component("b", "1.0.0", {"c": "<1.5.0"}),
        *(component("c", version) for version in ("1.0.0", "1.4.0", "1.6.0", "2.0.0")),
    )
    assert versions(found) == {"a": "1.0.0", "b": "1.0.0", "c": "1.4.0"}
    assert found.order.index("c") < found.order.index("a")


def test_what_only_a_dropped_version_needed_is_not_in_the_plan() -> None:
    found = run(
        {"a": {"g": "*"}, "b": {"g": "*"}},
        component("a", "1.0.0", {"c": "*"}),
        component("b", "1.0.0", {"d": "*"}),
        component("d", "1.0.0", {"c": "<2.0.0"}),
        component("c", "2.0.0", {"only-for-two": "*"}),
        component("c", "1.0.0"),
        component("only-for-two", "1.0.0"),
    )
    assert versions(found) == {"a": "1.0.0", "b": "1.0.0", "c": "1.0.0", "d": "1.0.0"}


@pytest.mark.parametrize(
    ("roots", "known", "words"),
    [
        pytest.param(
            {"a": {"thinggroup/g": "2.0.0"}}, [component("a", "1.0.0")], "thinggroup/g requires 2.0.0", id="no version"
        ),
        pytest.param(
            {"a": {"g": "*"}},
            [component("a", "1.0.0", {"b": "^1"})],
            "no version of b fits: a requires",
            id="missing dependency",
        ),
        pytest.param(
            {"a": {"g": "1.0.0", "h": "2.0.0"}},
            [component("a", "1.0.0"), component("a", "2.0.0")],
            "g requires 1.0.0, h requires 2.0.0",
            id="two groups",
        ),
        pytest.param(
            {"a": {"g": "*"}},
            [component("a", "1.0.0", {"b": "*"}), component("b", "1.0.0", {"a": "*"})],
            "circle: a -> b -> a",
            id="circle",
        ),
        pytest.param(
            {"a": {"g": "*"}},
            [component("a", "1.0.0", {"b": "*"}, ("b",)), component("b", "1.0.0", {"a": "*"}, ("a",))],
            "circle",
            id="soft circle",
        ),
        pytest.param(
            {"a": {"g": "*"}, "b": {"g": "*"}},
            [
                component("a", "1.0.0", {"c": "1.0.0"}),
                component("b", "1.0.0", {"c": "2.0.0"}),
                component("c", "1.0.0"),
                component("c", "2.0.0"),
            ],
            "a requires 1.0.0, b requires 2.0.0",
            id="conflict names both",
        ),
    ],
)
def test_refused(roots: dict[str, dict[str, str]], known: list[recipe.Recipe], words: str) -> None:
    with pytest.raises(Unresolvable, match=words):
        run(roots, *known)


NAMES = "abcdef"


@given(st.dictionaries(st.sampled_from(NAMES), st.sets(st.sampled_from(NAMES), max_size=3), min_size=1))
def test_every_order_has_dependencies_first_or_names_a_circle(edges: dict[str, set[str]]) -> None:
    recipes = {
        name: component(name, "1.0.0", {other: "*" for other in needs if other != name})
        for name, needs in edges.items()
    }
    try:
        order = plan.order(recipes)
    except Unresolvable as exc:
        circle = exc.message.partition(": ")[2].split(" -> ")
        assert circle[0] == circle[-1] and len(circle) > 2
        assert all(after in recipes[before].dependencies for before, after in itertools.pairwise(circle))
        return
    assert sorted(order) == sorted(recipes)
    for name in order:
        needed = [other for other in recipes[name].dependencies if other in recipes]
        assert all(order.index(other) < order.index(name) for other in needed)


def test_best_is_none_when_nothing_fits() -> None:
    assert plan.best([semver.parse("1.0.0")], {"x": "^2"}) is None
