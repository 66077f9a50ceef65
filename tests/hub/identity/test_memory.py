"""What is kept in memory never differs from what is stored: random walks over all that changes a right, against a model."""

import itertools
import random

import pytest

from marram.core.errors import Conflict, Denied, Invalid, LimitExceeded
from marram.hub.identity import pki

ARN = "arn:aws:iot:local-1:000000000001:"
POLICIES, THINGS, GROUPS = ("p0", "p1", "p2"), ("t0", "t1"), ("root", "child")
OTHER = {"Action": "iot:Receive", "Resource": "*"}


def grant(policy: str) -> dict[str, object]:
    return {"Action": "iot:Publish", "Resource": f"{ARN}topic/{policy}"}


@pytest.mark.parametrize("seed", range(4))
async def test_rights_follow_every_change(hub, seed):
    dice = random.Random(seed)
    for policy in POLICIES:
        await hub.policy(policy, grant(policy))
        await hub.identity.create_version(policy, hub.document(OTHER), as_default=False)
    for thing in THINGS:
        await hub.registry.create_thing(thing)
    await hub.registry.create_group("root")
    await hub.registry.create_group("child", parent="root")
    ders = [await hub.certificate() for _ in range(3)]
    ids = [pki.certificate_id(der) for der in ders]
    held = [hub.identity.certificate_subject(der) for der in ders]

    granting = set(POLICIES)
    active = set(ids)
    attached: set[tuple[str, str]] = set()  # (target, policy)
    owned: set[tuple[str, str]] = set()  # (thing, certificate)
    members: set[tuple[str, str]] = set()  # (group, thing)

    def may(certificate: str, policy: str) -> bool:
        groups = {group for group, thing in members if (thing, certificate) in owned}
        groups |= {"root"} if "child" in groups else set()
        targets = {f"cert/{certificate}", *(f"thinggroup/{group}" for group in groups)}
        return policy in granting and any((target, policy) in attached for target in targets)

    async def change() -> None:
        policy, thing, group, found = dice.choice(POLICIES), dice.choice(THINGS), dice.choice(GROUPS), dice.choice(ids)
        target = dice.choice([f"cert/{found}", f"thinggroup/{group}"])
        match dice.randrange(8):
            case 0:
                await hub.identity.attach_policy(policy, ARN + target)
                attached.add((target, policy))
            case 1:
                await hub.identity.detach_policy(policy, ARN + target)
                attached.discard((target, policy))
            case 2:
                await hub.registry.attach_principal(thing, f"{ARN}cert/{found}")
                owned.add((thing, found))
            case 3 if (thing, found) in owned:
                await hub.registry.detach_principal(thing, f"{ARN}cert/{found}")
                owned.discard((thing, found))
            case 4:
                try:
                    await hub.registry.add_to_group(group, thing)
                except Invalid:  # in the other group of the hierarchy
                    assert any(of == thing for _, of in members)
                else:
                    members.add((group, thing))
            case 5:
                await hub.registry.remove_from_group(group, thing)
                members.discard((group, thing))
            case 6:
                status = dice.choice(["ACTIVE", "ACTIVE", "INACTIVE", "REVOKED"])
                await hub.identity.set_status(found, status)
                (active.add if status == "ACTIVE" else active.discard)(found)
            case 7:
                version = dice.choice(["1", "2"])
                await hub.identity.set_default_version(policy, version)
                (granting.add if version == "1" else granting.discard)(policy)

    for _ in range(150):
        try:
            await change()
        except (Conflict, LimitExceeded) as exc:  # none of these changes runs into either
            pytest.fail(str(exc))
        for index, der in enumerate(ders):
            if ids[index] not in active:
                with pytest.raises(Denied):
                    hub.identity.certificate_subject(der)
                with pytest.raises(Denied):
                    hub.identity.refresh(held[index])
                continue
            if held[index].epoch != hub.identity.epoch:
                held[index] = hub.identity.refresh(held[index])
        for (index, found), policy in itertools.product(enumerate(ids), POLICIES):
            if found in active:
                got = hub.identity.may(held[index], "iot:Publish", f"{ARN}topic/{policy}")
                assert got == may(found, policy), (found, policy)
