import math

import apache_beam as beam
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelbeam.transforms.buckets import BUCKETS, bucket_of, hash_of
from labelbeam.transforms.choose import ALL, Choice, SmallestDraws, bound_of, draw_of, find_bound
from labelbeam.transforms.elements import Failure, ImageRef, id_of_uri
from labelbeam.transforms.outcomes import Outcomes
from labelbeam.transforms.sample import ChooseRows
from tests.eager import RUNNERS, eagerly

IDS = [id_of_uri(f"/photos/{n}.jpg") for n in range(20_000)]
SHARES = st.floats(0, 1)


def chosen_of(ids, choice):
    bound = find_bound(ids, choice)
    return {image_id for image_id in ids if draw_of(image_id) < bound}


def test_draw_of__an_id__is_the_same_in_every_version():
    # Written out, because another draw would choose other images than earlier runs have labelled.
    assert [draw_of(text) for text in ("a", "ä", "\udcff")] == [
        2543174313355156780,
        3229307764620268307,
        4474990632041963746,
    ]


@given(st.text(), SHARES, SHARES)
def test_bound_of__a_larger_share__holds_the_smaller_sample(image_id, one, other):
    small, large = sorted((one, other))
    assert draw_of(image_id) < bound_of(large) or draw_of(image_id) >= bound_of(small)
    assert draw_of(image_id) < bound_of(1.0) and draw_of(image_id) >= bound_of(0.0)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9])
def test_bound_of__many_ids__are_the_share_within_chance(share):
    taken = sum(draw_of(image_id) < bound_of(share) for image_id in IDS)
    assert abs(taken - share * len(IDS)) < 4 * math.sqrt(len(IDS) * share * (1 - share))


@pytest.mark.parametrize("parts", [2, 10, 64, BUCKETS])
def test_bound_of__buckets_and_partition_folders__have_equal_shares(parts):
    sampled = [hash_of(image_id) % parts for image_id in IDS if draw_of(image_id) < bound_of(0.25)]
    expected = len(sampled) / parts
    counts = np.bincount(sampled, minlength=parts)
    # Chi-square, whose mean is parts - 1 and whose deviation is the root of twice that.
    assert abs(((counts - expected) ** 2 / expected).sum() - parts) < 5 * math.sqrt(2 * parts)
    assert bucket_of(IDS[0]) == hash_of(IDS[0]) % BUCKETS


@given(
    st.lists(st.sampled_from(IDS[:300])), st.integers(1, 50), st.sampled_from([0.05, 0.5, 1.0]), st.randoms()
)
def test_limit__any_list__chooses_exactly_so_many_ids_in_any_order(ids, limit, share, random):
    choice = Choice(share, limit)
    chosen = chosen_of(ids, choice)
    assert len(chosen) == min(limit, sum(draw_of(image_id) < bound_of(share) for image_id in set(ids)))
    assert chosen <= chosen_of(ids, Choice(share, limit + 1)) <= chosen_of(ids, Choice(share))
    random.shuffle(ids)
    middle = random.randint(0, len(ids))
    parts = [SmallestDraws(choice), SmallestDraws(choice)]
    for draws, part in zip(parts, (ids[:middle], ids[middle:]), strict=True):
        for image_id in part:
            draws.add(image_id)
    parts[0].update(parts[1])
    assert {image_id for image_id in ids if draw_of(image_id) < parts[0].bound} == chosen


def test_limit__more_rows_than_are_gathered__keeps_the_smallest_draws(monkeypatch):
    monkeypatch.setattr("labelbeam.transforms.choose._GATHERED", 64)
    choice = Choice(limit=100)
    assert chosen_of(IDS, choice) == set(sorted(IDS, key=draw_of)[:100])
    assert find_bound(IDS[:50], choice) == ALL


class ChooseFrom(ChooseRows):
    """Choosing from one list of references and failures."""

    def expand(self, rows):
        refs = rows | "Refs" >> beam.Filter(isinstance, ImageRef)
        failures = rows | "Failures" >> beam.Filter(isinstance, Failure)
        return super().expand(Outcomes(refs, failures))


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("choice", [Choice(0.3), Choice(limit=25), Choice(0.3, 25), Choice(limit=10**6)])
def test_choose_rows__rows_and_bad_rows__are_chosen_by_id_and_counted(runner, choice):
    refs = [ImageRef(image_id, image_id) for image_id in (*IDS[:180], *IDS[100:180])]
    failures = [Failure(ImageRef(image_id, ""), "read", "bad_row", "", 1, None) for image_id in IDS[200:220]]

    kept, bad, counts = eagerly(ChooseFrom(choice), [*refs, *failures], runner)
    expected = chosen_of([*IDS[:180], *IDS[200:220]], choice)
    assert {ref.id for ref in kept} | {failure.ref.id for failure in bad} == expected
    assert len(kept) == sum(ref.id in expected for ref in refs)
    left_out = len(refs) + len(failures) - len(kept) - len(bad)
    assert sum(n for _, n in counts) == left_out and {kind for kind, _ in counts} <= {"not_chosen"}
