"""Errors of ours under the names and statuses of each service."""

import pytest

from marram.core.errors import Corrupt, Unavailable
from marram.hub.border import errors, plans
from marram.hub.border.errors import Fault
from marram.kit.disk import DiskFull


@pytest.mark.parametrize("service", sorted(errors.FAULTS))
def test_a_full_disk_is_507_everywhere_and_no_client_retries_it(service: str) -> None:
    """boto3 retries 500, 502, 503 and 504: a full disk would be asked again and again."""
    full = errors.fault(plans.load(service), DiskFull("full"))
    busy = errors.fault(plans.load(service), Unavailable("not now"))
    assert full == Fault(busy.code, 507) and busy.status != 507


def test_damage_says_nothing_to_the_caller() -> None:
    made = errors.fault(plans.load("iot"), Corrupt("secret of the store"))
    assert made.status == 500 and "secret" not in errors.message(Corrupt("secret of the store"))
