"""What the TLS doors trust, changed while they listen."""

import asyncio
import ssl

import pytest

from marram.hub.identity import store_authorities
from marram.hub.identity.pki import Issued
from marram.hub.identity.store_authorities import Authority
from marram.kit.clock import SystemClock
from tests.hub.identity.test_pki import client_context, handshake
from tests.wire.authority import CertificateAuthority


@pytest.fixture
def plant(hub, monkeypatch):
    """OpenSSL looks at the machine's clock: so do we here."""
    monkeypatch.setattr(hub.identity.pki, "_clock", SystemClock())
    hub.identity.pki.renew_if_due()
    return hub


def shown(hub, authority, name="device"):
    pem, key = authority.issue(CN=name)
    return client_context(hub.identity.pki, Issued(pem=pem, der=hub.der(pem), private_key_pem=key))


def row(hub, authority, number=1):
    return Authority(
        id=f"{number:064d}", der=hub.der(authority.pem), subject=str(number), status="ACTIVE", is_open=False
    )


async def renewed(trust, door):
    """Wait until the door has another context."""
    before = door()
    runner = asyncio.ensure_future(trust.run())
    async with asyncio.timeout(10):
        while door() is before:
            await asyncio.sleep(0.005)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)


async def test_added_at_once_and_gone_with_new_contexts(plant):
    trust, authority = plant.identity.trust, CertificateAuthority()
    door, api = trust.door("required"), trust.door("none")
    with pytest.raises(ssl.SSLError):
        handshake(door(), shown(plant, authority))
    context = door()
    trust.add(plant.der(authority.pem))
    assert door() is context  # the same: nobody's session ticket is lost
    assert handshake(context, shown(plant, authority)).getpeercert(binary_form=True)
    trust.renew()  # it is in no table: somebody has removed it
    await renewed(trust, door)
    with pytest.raises(ssl.SSLError):
        handshake(door(), shown(plant, authority))
    own = plant.identity.pki.issue_device()
    assert handshake(door(), client_context(plant.identity.pki, own)).getpeercert(binary_form=True) == own.der
    assert handshake(api(), client_context(plant.identity.pki)).getpeercert(binary_form=True) is None


async def test_what_commits_while_contexts_are_made_is_in_them(plant, monkeypatch):
    trust, kept, late = plant.identity.trust, CertificateAuthority("Kept"), CertificateAuthority("Late")
    await plant.db.write(lambda tx: store_authorities.add(tx, row(plant, kept)))
    door = trust.door("required")
    loop, real = asyncio.get_running_loop(), trust._make_all

    def slowly(keys):
        made = real(keys)
        done = asyncio.run_coroutine_threadsafe(_add(trust, plant.der(late.pem)), loop)
        done.result(10)
        return made

    monkeypatch.setattr(trust, "_make_all", slowly)
    trust.renew()
    await renewed(trust, door)
    for authority in (kept, late):
        assert handshake(door(), shown(plant, authority)).getpeercert(binary_form=True)


async def _add(trust, der):
    trust.add(der)
