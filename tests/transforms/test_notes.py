import itertools

from labelbeam.transforms.notes import LEFT_OUT, UNPARSED, Notes, SumNotes
from tests.eager import eagerly


def notes_of(*names: str, kind: str = LEFT_OUT) -> Notes:
    notes = Notes()
    for name in names:
        notes.add(kind, name)
    return notes


def test_sum_notes__several_bundles__are_added_up():
    bundles = [notes_of(".txt", ".gz"), notes_of(".txt"), notes_of("n", kind=UNPARSED)]
    assert eagerly(SumNotes(), bundles) == [{"left_out": {".txt": 2, ".gz": 1}, "unparsed": {"n": 1}}]
    assert eagerly(SumNotes(), []) == [{}]


def test_notes__many_names__are_bounded_and_lose_no_count():
    notes = notes_of(*(f".{n}" for n in range(5000)), ".often", ".0")
    left_out = notes.to_json()[LEFT_OUT]
    assert len(left_out) == 51 and left_out[".0"] == 2
    assert sum(left_out.values()) == 5002 and list(left_out)[-1] == "(other)"


def test_notes__examples__are_the_same_in_any_order_of_bundles():
    bundles = []
    for value in ("b", "a", "d", "c"):
        bundles.append(Notes())
        bundles[-1].add(UNPARSED, "price", value)
    results = []
    for order in itertools.permutations(bundles):
        merged = Notes()
        for notes in order:
            merged.update(notes)
        results.append(merged.to_json())
    assert all(r == {"unparsed": {"price": {"count": 4, "examples": ["a", "b", "c"]}}} for r in results)


def test_add__example_with_secrets__hides_them():
    notes = Notes()
    notes.add(UNPARSED, "n", "['https://u:hidden@h/a.jpg?sig=hidden&w=1']")
    (example,) = notes.to_json()[UNPARSED]["n"]["examples"]
    assert "hidden" not in example and "w=1" in example
