"""Answers about a model on a kind of device: found once, and remembered for the next process."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labelbeam.transforms.models.cache import cache_folder

_LOG = logging.getLogger(__name__)

Answer = dict[str, Any]


def remembered(question: str, facts: dict[str, Any], find_out: Callable[[], tuple[Answer, bool]]) -> Answer:
    """Look an answer up, or find it out.

    Args:
      question: Name of the question, and of the folder of its answers.
      facts: All that the answer depends on; plain data.
      find_out: Returns the answer, and whether it will be the same next time.
    """
    file = cache_folder() / question / f"{_digest(facts)[:32]}.json"
    answer = _read(file)
    if answer is None:
        answer, lasts = find_out()
        if lasts:
            _write(file, {"facts": facts, "answer": answer, "sha256": _digest(answer)})
    return answer


def _read(file: Path) -> Answer | None:
    try:
        document = json.loads(file.read_text("utf-8"))
        return document["answer"] if document["sha256"] == _digest(document["answer"]) else None
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or a damaged one
        return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write(file: Path, document: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Written elsewhere and renamed, because several processes may find the answer at once.
        with tempfile.TemporaryDirectory(prefix=".new-", dir=file.parent) as folder:
            new = Path(folder) / file.name
            new.write_text(json.dumps(document), "utf-8")
            new.replace(file)
    except OSError as e:  # the next process finds the answer again
        _LOG.warning("%s can't be remembered: %s", file.parent.name, e)
