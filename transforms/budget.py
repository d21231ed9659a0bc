"""The failure budget: how many images may fail before a run is not worth going on with."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from labelbeam.transforms.elements import DecodedImage, Failure, Prediction
from labelbeam.transforms.errors import RunError

_WORST = 3
# Standard deviations: it judges at every failure, in every process, and must be wrong in none.
_DOUBTS = 5.0
# Hosts that a process remembers; with more, those that failed least are forgotten.
_MAX_HOSTS = 10_000


@dataclass(frozen=True, slots=True)
class FailureBudget:
    """Which share of the images may fail.

    Attributes:
      max_rate: Of all images.
      max_rates: By reason.
      floor: Images that a worker process must have finished before it may stop the run.
    """

    max_rate: float = 1.0
    max_rates: tuple[tuple[str, float], ...] = ()
    floor: int = 1000

    def excess(
        self, images: int, reasons: Mapping[str, int], hosts: Mapping[str, int], doubts: float = 0.0
    ) -> str | None:
        """What is over budget, for a person; None if nothing is.

        Args:
          images: How many are finished, those that failed included.
          reasons: Failures by reason.
          hosts: Failures by host.
          doubts: Standard deviations by which a part of the input may be worse than the whole.
        """
        failed = sum(reasons.values())
        limits = [("images failed", failed, self.max_rate, "max_failure_rate")]
        limits += [
            (f"images failed with {reason}", reasons.get(reason, 0), rate, f"max_failure_rates {reason}")
            for reason, rate in self.max_rates
        ]
        for what, count, rate, option in limits:
            chance = doubts * math.sqrt(rate * (1 - rate) / images) if images else 0.0
            if count and count / images > rate + chance:
                return (
                    f"{count:,} of {images:,} {what} ({count / images:.1%}), more than "
                    f"{option}={rate:.1%} allows. Most often: {_worst(reasons)}"
                    f"{f'; at {_worst(hosts)}' if any(hosts) else ''}."
                )
        return None


def _worst(counts: Mapping[str, int]) -> str:
    worst = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_WORST]
    return ", ".join(f"{name or 'local files'} ({count:,})" for name, count in worst)


class BudgetWatch:
    """Holds a process to the budget; safe to call from several threads.

    Every process sees a random part of the input, so that each can judge by
    what it has seen itself, and no runner has to carry a number between them. It
    stops a run only where chance can't explain what it has seen. In the split
    layout each side has a watch: one sees what can't be decoded, the other what
    can't be labelled.
    """

    def __init__(self, budget: FailureBudget, in_flight: Callable[[], int] = lambda: 0) -> None:
        """Makes a watch that has seen nothing.

        Args:
          budget: What it holds the process to.
          in_flight: Gives how many images the process has under way at most; failures overtake them.
        """
        self._budget = budget
        self._in_flight = in_flight
        self._lock = threading.Lock()
        self._images = 0
        self._reasons: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()

    def count(self, result: Prediction | Failure | DecodedImage) -> None:
        """Counts an image that this process has finished with.

        Raises:
          RunError: Too many have failed.
        """
        with self._lock:
            self._images += 1
            if not isinstance(result, Failure):
                return
            self._reasons[result.reason] += 1
            self._hosts[result.host] += 1
            if len(self._hosts) > 2 * _MAX_HOSTS:
                self._hosts = Counter(dict(self._hosts.most_common(_MAX_HOSTS)))
            if self._images < self._budget.floor:
                return
            begun = self._images + self._in_flight()
            excess = self._budget.excess(begun, self._reasons, self._hosts, _DOUBTS)
        if excess:
            raise RunError(f"Stopped early: {excess}")
