"""Selection: the images that people should look at, by rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from labelbeam.pipeline.config import did_you_mean
from labelbeam.pipeline.results.curves import kept_outputs
from labelbeam.pipeline.results.database import ELEMENT, Database
from labelbeam.pipeline.results.truth import plain_name
from labelbeam.transforms.errors import UserError
from labelbeam.transforms.models.heads import BINARY, EMBEDDING, MULTILABEL
from labelbeam.transforms.sources.secrets import HIDDEN, lacks_secrets
from labelbeam.transforms.table.manifest import Manifest

MARGIN, ENTROPY, SCORE, RANDOM, DISAGREEMENT = "margin", "entropy", "score", "random", "disagreement"
CRITERIA = (MARGIN, ENTROPY, SCORE, RANDOM, DISAGREEMENT)
# Prefix of the views and tables of the output that `disagreement` compares with.
_OTHER = "other_"


@dataclass(frozen=True, slots=True)
class SelectOptions:
    """Which images are selected.

    Attributes:
      by: A criterion.
      number: Largest number of images; None for no limit.
      per_class: Largest number of images of each predicted class; None for no limit.
      balanced: Whether classes take turns, so that they have equal numbers as far as they go.
      other: Table folder to compare with, for `disagreement`.
    """

    by: str
    number: int | None = None
    per_class: int | None = None
    balanced: bool = False
    other: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected images, which are ranked in the table `ranks`.

    Attributes:
      images: Images that the criterion ranks.
      selected: Number of selected images.
      classes: Number of their predicted classes.
      first: Value of the criterion of the first image; None without one.
      last: Value of the criterion of the last image; None without one.
      warnings: Reservations.
    """

    images: int
    selected: int
    classes: int
    first: float | None
    last: float | None
    warnings: tuple[str, ...]


# Images with the criterion's value, and with the key, by which the first image is the one to look at first.
# The key is computed outside, because the tables may have a column `value` of the user's.
_SCORED = """
CREATE VIEW scored AS
SELECT *, {key} AS key, md5_number_lower(id) AS hash
FROM (
{rows}
)
"""
_EACH = """
  SELECT id, {class_id} AS class_id, {value} AS value FROM predictions"""
# A difference is as confident as the less confident one of its sides.
_DIFFERING = """
  SELECT id, predictions.labels[1].class_id AS class_id,
    CAST(least(predictions.score, other_predictions.score) AS DOUBLE) AS value,
    other_predictions.label AS other_label, other_predictions.score AS other_score
  FROM predictions JOIN other_predictions USING (id)
  WHERE {mine} IS DISTINCT FROM {theirs}"""
# Ties are ordered by a hash of the id. DuckDB's own hash may change with its version, MD5 never does.
_ORDER = "key, hash, id"
_RANKS = """
CREATE TABLE ranks AS
SELECT id, class_id, value{more}, row_number() OVER (ORDER BY {order}) AS rank
FROM (
  SELECT * FROM {candidates} WHERE key IS NOT NULL{limits} ORDER BY {order}{number}
)
"""
_PLACES = f"""(
    SELECT *, row_number() OVER (PARTITION BY class_id ORDER BY {_ORDER}) AS place
    FROM scored WHERE key IS NOT NULL
  )"""
_SUMMARY = """
SELECT (SELECT count(key) FROM scored) AS images, count(*) AS selected,
  count(DISTINCT class_id) AS classes, arg_min(value, rank) AS first,
  arg_max(value, rank) AS last
FROM ranks
"""
_HIDDEN_URIS = f"""
SELECT predictions.uri FROM ranks JOIN predictions USING (id)
WHERE contains(predictions.uri, '{HIDDEN}') ORDER BY ranks.rank
"""
_SCORES = f"list_transform(labels, lambda {ELEMENT}: CAST({ELEMENT}.score AS DOUBLE))"


def select(db: Database, manifest: Manifest, options: SelectOptions) -> Selection:
    """Rank the images of attached tables, and keep the first ones.

    Makes the table `ranks` of the selected images, with the columns `id`, `class_id` (the best label's),
    `value` (of the criterion) and `rank`, from 1 on; and for `disagreement` also `other_label` and
    `other_score`. A smaller number selects the first ones of the images that a larger number selects.

    Args:
      db: Database with the tables.
      manifest: Manifest of the tables.
      options: Which images are selected.

    Raises:
      UserError: The options contradict each other, or the tables lack what the criterion needs.
    """
    _check(manifest, options)
    if options.by == DISAGREEMENT:
        rows, key = _differences(db, manifest, options.other), "-value"
    else:
        value, key = _criterion(manifest, options.by)
        class_id = "NULL::INTEGER" if manifest.model["head"] == EMBEDDING else "labels[1].class_id"
        rows = _EACH.format(class_id=class_id, value=value)
    db.run(_SCORED.format(key=key, rows=rows.strip("\n")))
    by_class = options.balanced or options.per_class
    db.run(
        _RANKS.format(
            more=", other_label, other_score" if options.by == DISAGREEMENT else "",
            candidates=_PLACES if by_class else "scored",
            limits=f" AND place <= {options.per_class}" if options.per_class else "",
            # Classes take turns, so that a smaller number of images is balanced, too.
            order=f"place, {_ORDER}" if options.balanced else _ORDER,
            number=f" LIMIT {options.number}" if options.number else "",
        )
    )
    return Selection(**db.row(_SUMMARY), warnings=tuple(_warnings(db, manifest, options)))


def _check(manifest: Manifest, options: SelectOptions) -> None:
    by, listed = options.by, ", ".join(CRITERIA)
    if not by:
        raise UserError(f"No criterion is given. Give one with --by: {listed}.")
    if by not in CRITERIA:
        raise UserError(f"by={by!r} is not allowed: {listed}. {did_you_mean(by, CRITERIA)}".strip())
    if options.number is None and options.per_class is None:
        raise UserError("No number of images is given. Give one with --number, or --per_class.")
    if (by == DISAGREEMENT) != bool(options.other):
        raise UserError("--by disagreement and --other OUTPUT belong together. Give both, or none of them.")
    if manifest.model["head"] == EMBEDDING and (by != RANDOM or options.balanced or options.per_class):
        raise UserError(
            "The tables have embeddings and no labels, so that images can be selected at random alone: "
            "--by random, without --per_class and --balanced."
        )


def _criterion(manifest: Manifest, by: str) -> tuple[str, str]:
    """Return a criterion's value and its key, as SQL."""
    head, top_k = manifest.model["head"], manifest.labelled_with.top_k
    if by == RANDOM:
        return "NULL::DOUBLE", "0"
    if by == SCORE:
        # Images without a label come first, because no class of a multi-label model reached the threshold.
        return "CAST(score AS DOUBLE)", "coalesce(value, -1)"
    if head == MULTILABEL:
        return _multilabel_criterion(manifest, by)
    if by == ENTROPY:
        # The scores that are not listed are one further term, so that the value is a lower bound.
        terms = f"list_append({_SCORES}, greatest(1 - list_sum({_SCORES}), 0))"
        return f"list_sum(list_transform({terms}, lambda p: {_entropy('p')}))", "-value"
    if head == BINARY:  # the scores of both classes add up to 1
        return "2 * CAST(score AS DOUBLE) - 1", "value"
    if top_k < 2:
        raise UserError(
            "by='margin' needs the two best labels, and rows have one (top_k=1). Give --by score, or label "
            "with --top_k 2 or more."
        )
    return "CAST(labels[1].score AS DOUBLE) - coalesce(CAST(labels[2].score AS DOUBLE), 0)", "value"


def _multilabel_criterion(manifest: Manifest, by: str) -> tuple[str, str]:
    """Return the value and key of a model whose classes are judged each by itself."""
    outputs = kept_outputs(manifest)
    scores = _SCORES
    if outputs:
        number = "1 / (1 + exp(-CAST(one AS DOUBLE)))" if outputs == "logits" else "CAST(one AS DOUBLE)"
        scores = f"list_transform({outputs}::FLOAT[], lambda one: {number})"
    if by == MARGIN:
        gap = f"abs(p - {manifest.labelled_with.threshold})"
        return f"list_min(list_transform({scores}, lambda p: {gap}))", "value"
    terms = f"list_transform({scores}, lambda p: {_entropy('p')} + {_entropy('(1 - p)')})"
    return f"list_sum({terms})", "-value"


def _entropy(p: str) -> str:
    return f"CASE WHEN {p} > 0 THEN -{p} * ln({p}) ELSE 0 END"


def _differences(db: Database, manifest: Manifest, other: str) -> str:
    """Attach another output, and return the query of the images whose best label differs."""
    theirs = db.attach(other, _OTHER)
    if theirs.model["head"] == EMBEDDING:
        raise UserError(f"other={other!r} has embeddings and no labels.")
    shared = db.row("SELECT count(*) AS images FROM predictions JOIN other_predictions USING (id)")["images"]
    if not shared:
        raise UserError(
            f"other={other!r} has labels for none of the images: no id is in both outputs. Give an output of "
            "the same URIs, or of the same --id_column."
        )
    # By name for other models, because their class ids count other classes.
    classes = manifest.model.get("classes")
    is_same = bool(classes) and classes == theirs.model.get("classes")
    mine, other_label = (
        f"{table}.labels[1].class_id" if is_same else plain_name(f"{table}.label")
        for table in ("predictions", "other_predictions")
    )
    return _DIFFERING.format(mine=mine, theirs=other_label)


def _warnings(db: Database, manifest: Manifest, options: SelectOptions) -> Iterator[str]:
    yield from _warn_of_missing_scores(db, manifest, options)
    names = [name for name in manifest.labelled_with.secret_params.split(",") if name]
    lost = (uri for uri in db.texts(_HIDDEN_URIS) if lacks_secrets(uri, names))
    if example := next(lost, None):
        n = 1 + sum(1 for _ in lost)
        yield (
            f"{n:,} of the selected URIs can't be opened, because the tables have them without secrets, such "
            f"as {example!r:.300}. Join the selection with your own list, by its id."
        )


def _warn_of_missing_scores(db: Database, manifest: Manifest, options: SelectOptions) -> Iterator[str]:
    if manifest.model["head"] != MULTILABEL or options.by not in (MARGIN, ENTROPY) or kept_outputs(manifest):
        return
    n = db.row("SELECT count(*) - count(key) AS images FROM scored")["images"]
    yield (
        f"Only scores from the threshold of {manifest.labelled_with.threshold:g} on count, because the "
        f"tables have no others. Images without a label that are left out: {n:,}. Label with "
        "--keep_outputs for all scores."
    )
