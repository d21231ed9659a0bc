"""What is found out once about a model on a kind of device, and remembered for the next process."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from typing import Any

from transforms.models.store import cache_folder

_LOG = logging.getLogger(__name__)

Answer = dict[str, Any]


def remembered(question: str, facts: dict[str, Any], find_out: Callable[[], tuple[Answer, bool]]) -> Answer:
    """Looks an answer up, or finds it out.

    Args:
      question: What is asked, as a folder's name.
      facts: All that the answer depends on; plain data.
      find_out: Gives the answer, and whether it will be the same next time.
    """
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    file = cache_folder() / question / f"{key}.json"
    try:
        return json.loads(file.read_text("utf-8"))["answer"]
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or half of one
        answer, lasts = find_out()
    if lasts:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as f:
                json.dump({"facts": facts, "answer": answer}, f)
            os.replace(f.name, file)
        except OSError as e:  # it is found out again next time
            _LOG.warning("%s can't be remembered: %s", question, e)
    return answer
