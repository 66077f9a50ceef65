"""Sampling: propensity is exact, hard ones come, duplicates go, the budget holds across restarts."""

from pathlib import Path

import numpy as np
import pytest

from marram.components.infer import feedback, prepare
from marram.core.errors import Invalid


def item(at: int, margin: float, region: int = 0) -> tuple[feedback.Item, prepare.Image]:
    image = np.random.default_rng(at).integers(0, 256, (16, 16, 1), dtype=np.uint8)
    made = feedback.Item(
        sha256=feedback.digest(image),
        image=image,
        frame=f"r:{at}",
        region=region,
        label="1",
        probabilities=[0.5 + margin / 2, 0.5 - margin / 2],
        margin=margin,
        time_ms=at,
    )
    return made, image


def test_hardest_are_chosen_and_random_carries_its_propensity() -> None:
    sampler = feedback.Sampler(feedback.Settings(per_window=20, random_share=0.15), seed=4)
    for at in range(200):
        sampler.offer(*item(at, margin=at / 200))
    chosen = sampler.close_window()
    drawn = [one for one in chosen if one.reason == "random"]
    assert len(chosen) == 20 and len(drawn) == 3
    assert {one.propensity for one in drawn} == {3 / 200}
    hard = [one for one in chosen if one.reason == "margin"]
    assert all(one.propensity is None for one in hard) and max(one.margin for one in hard) < 0.12
    assert sampler.close_window() == []


def test_random_part_estimates_the_mean_of_all() -> None:
    means = []
    for seed in range(60):
        sampler = feedback.Sampler(feedback.Settings(per_window=10, random_share=1.0), seed=seed)
        for at in range(50):
            sampler.offer(*item(at, margin=at / 50))
        means.append(np.mean([one.margin for one in sampler.close_window()]))
    assert np.mean(means) == pytest.approx(0.49, abs=0.04)


def test_exact_and_near_duplicates_go() -> None:
    sampler = feedback.Sampler(feedback.Settings(per_window=10), seed=1)
    first, small = item(1, 0.5)
    sampler.offer(first, small)
    sampler.offer(first, small)
    near = np.clip(small.astype(int) + 1, 0, 255).astype(np.uint8)
    sampler.offer(item(2, 0.1)[0], near)
    assert sampler.duplicates == 2
    sampler.offer(item(3, 0.1, region=1)[0], near)  # another place: another sample
    assert len(sampler.close_window()) == 2


def test_queue_keeps_the_best_survives_a_restart_and_spends_its_budget(tmp_path: Path) -> None:
    settings = feedback.Settings(queue_items=3, bytes_per_day=2000)
    queue = feedback.Queue(tmp_path, settings)
    for at, margin in enumerate([0.9, 0.5, 0.1, 0.3]):
        queue.put(item(at, margin)[0])
    assert len(queue) == 3 and queue.evicted == 1
    assert queue.put(item(2, 0.1)[0]) is False
    again = feedback.Queue(tmp_path, settings)
    name, document = again.next_item(now_ms=5 * feedback.DAY_MS) or ("", {})
    assert document["margin"] == 0.1
    again.sent(name, 5 * feedback.DAY_MS)
    second = again.next_item(5 * feedback.DAY_MS)
    if second is not None:
        again.sent(second[0], 5 * feedback.DAY_MS)
    third = feedback.Queue(tmp_path, feedback.Settings(queue_items=3, bytes_per_day=10))
    assert third.next_item(5 * feedback.DAY_MS) is None  # budget spent, and still so after a restart
    assert feedback.Queue(tmp_path, settings).next_item(6 * feedback.DAY_MS) is not None


def test_a_torn_file_does_not_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "abc.json").write_bytes(b'{"score": ')
    assert len(feedback.Queue(tmp_path, feedback.Settings())) == 0


def test_bad_settings_are_refused() -> None:
    with pytest.raises(Invalid):
        feedback.check(feedback.Settings(random_share=2.0))
