"""Classes of two models: the same ones by class id, else those of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from labelbeam.pipeline.results.database import Database
from labelbeam.pipeline.results.truth import plain_name, require_classes
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.table.manifest import Manifest

# Classes of both models by name. A class of A keeps its class id. One of B alone gets a negative number,
# because a truth that is a number must not match it.
_CLASSES = f"""
CREATE TABLE classes AS
WITH named AS (
  SELECT class_id, label FROM a_classes
  UNION ALL SELECT -1 - class_id, label FROM b_classes
)
SELECT first(class_id ORDER BY class_id < 0, abs(class_id)) AS class_id,
  first(label ORDER BY class_id < 0, abs(class_id)) AS label, {plain_name("label")} AS name,
  count(*) FILTER (class_id >= 0) AS of_a, count(*) FILTER (class_id < 0) AS of_b
FROM named GROUP BY name
"""
# Numbers of a model's classes in the table `classes`, by class id.
_NUMBERS = """
SET VARIABLE {side}_numbers = (
  SELECT list(classes.class_id ORDER BY own.class_id)
  FROM {side}_classes AS own JOIN classes ON name = {plain}
)
"""
_COUNTS = """
SELECT count(*) FILTER (of_a > 0 AND of_b > 0) AS common,
  list(label ORDER BY label) FILTER (of_a > 0 AND of_b > 0 AND (of_a > 1 OR of_b > 1)) AS doubled
FROM classes
"""
_MOST_LISTED = 5
BY_CLASS_ID, BY_LABEL = "class id", "label"


@dataclass(frozen=True, slots=True)
class CommonClasses:
    """The classes that two models have in common.

    Attributes:
      by: Way of matching: `class id`, or `label` of models with different lists of classes.
      common: Number of classes, or of labels, that both have.
      doubled: Labels that stand for several classes of a model, and are compared as one.
    """

    by: str
    common: int
    doubled: tuple[str, ...] = ()

    def number_of(self, side: str, class_id: str) -> str:
        """Return the SQL of a class's number in the table `classes`.

        Args:
          side: `a` or `b`.
          class_id: SQL of the class id in the side's own model.
        """
        return class_id if self.by == BY_CLASS_ID else f"getvariable('{side}_numbers')[{class_id} + 1]"


def match_classes(db: Database, a: Manifest, b: Manifest) -> CommonClasses:
    """Match the classes of the outputs attached as `a_` and `b_`; makes the table `classes`.

    Raises:
      UserError: No class is common.
    """
    lists: dict[str, list[str]] = {"a": a.model.get("classes", []), "b": b.model.get("classes", [])}
    if a.labelled_with.model != b.labelled_with.model or not any(lists.values()):
        for manifest in (a, b):
            require_classes(manifest)
        if lists["a"] != lists["b"]:
            return _match_names(db, lists)
    # One list is enough, because the fingerprint includes the label map, and older manifests have no list.
    side = "a" if lists["a"] else "b"
    db.run(f"CREATE TABLE classes AS FROM {side}_classes")
    return CommonClasses(BY_CLASS_ID, len(lists[side]))


def _match_names(db: Database, lists: Mapping[str, list[str]]) -> CommonClasses:
    if "class 0" in (lists["a"][0], lists["b"][0]):
        raise UserError(
            f"A has {len(lists['a']):,} classes, B has {len(lists['b']):,}, and one model has no names "
            "for them, so that labels can't be compared. Label with a label map: --labels."
        )
    db.run(_CLASSES)
    for side in lists:
        db.run(_NUMBERS.format(side=side, plain=plain_name("own.label")))
    counts = db.row(_COUNTS)
    if not counts["common"]:
        examples = [", ".join(map(repr, classes[:_MOST_LISTED])) for classes in lists.values()]
        raise UserError(
            "The models have no class of the same name, so that labels can't be compared. "
            f"A has {examples[0]} and so on, B has {examples[1]} and so on."
        )
    return CommonClasses(BY_LABEL, counts["common"], tuple(counts["doubled"] or ()))
