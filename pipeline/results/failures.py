"""Failures of published tables, by reason and by host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from labelbeam.pipeline.results.database import Database

# Failures shown for a reason, and hosts with failures.
_EXAMPLES = 3
_MOST_HOSTS = 20


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed images.

    Attributes:
      reasons: Reason, stage, images and examples, the most frequent first.
      hosts: Host, images and the most frequent reason, at most 20.
      hosts_seen: Number of different hosts.
    """

    reasons: tuple[Mapping[str, Any], ...]
    hosts: tuple[Mapping[str, Any], ...]
    hosts_seen: int


def read_failures(db: Database) -> Failures:
    """Return failures by reason and by host."""
    hosts = f"""
SELECT host, sum(images)::BIGINT AS images, max_by(reason, (images, reason)) AS reason,
  max(images) AS of_reason
FROM (SELECT host, reason, count(*) AS images FROM failures WHERE host <> '' GROUP BY ALL)
GROUP BY host ORDER BY images DESC, host LIMIT {_MOST_HOSTS}
"""
    reasons = f"""
SELECT reason, stage, count(*) AS images, min_by({{uri: uri, message: message}}, id, {_EXAMPLES}) AS examples
FROM failures GROUP BY ALL ORDER BY images DESC, reason, stage
"""
    seen = db.row("SELECT count(DISTINCT host) AS seen FROM failures WHERE host <> ''")["seen"]
    return Failures(tuple(db.rows(reasons)), tuple(db.rows(hosts)), seen)
