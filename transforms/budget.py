"""The failure budget: the share of images that may fail before a run is stopped."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from labelbeam.transforms.elements import Failure, PackedImage, Prediction
from labelbeam.transforms.errors import RunError

# Reasons and hosts in a message.
_MOST_NAMED = 3
# Tolerance in standard deviations. 5, because the check runs after every failure in every process, so it must
# practically never fire by chance.
_TOLERANCE = 5.0
# Hosts that a process counts. Beyond twice as many, hosts with the fewest failures are dropped, because a
# crawl has millions of hosts.
_MAX_HOSTS = 10_000


@dataclass(frozen=True, slots=True)
class FailureBudget:
    """Largest share of the images that may fail.

    Attributes:
      max_rate: Share that may fail for any reason, in [0, 1].
      max_rates: Share by reason.
      floor: Images that a worker process must have finished before it may stop the run.
    """

    max_rate: float = 1.0
    max_rates: tuple[tuple[str, float], ...] = ()
    floor: int = 1000

    def excess(
        self, images: int, reasons: Mapping[str, int], hosts: Mapping[str, int], tolerance: float = 0.0
    ) -> str | None:
        """Return a message about the first rate that is exceeded; None if none is.

        Args:
          images: Number of finished images, failed ones included.
          reasons: Failures by reason.
          hosts: Failures by host.
          tolerance: Standard deviations by which the rate of a random sample may exceed the limit.
        """
        failed = sum(reasons.values())
        limits = [("", failed, self.max_rate)]
        limits += [(reason, reasons.get(reason, 0), rate) for reason, rate in self.max_rates]
        for reason, count, rate in limits:
            margin = tolerance * math.sqrt(rate * (1 - rate) / images) if images else 0.0
            if count and count / images > rate + margin:
                noun = f"images failed with {reason}" if reason else "images failed"
                return (
                    f"{count:,} of {images:,} {noun} ({count / images:.1%}), more than "
                    f"{self._flag(reason, rate)} allows. Most often: {_worst(reasons)}"
                    f"{f'; at {_worst(hosts)}' if any(hosts) else ''}. "
                    f"{self._flag(reason, _rounded_up(count / images))} would allow this share."
                )
        return None

    def _flag(self, reason: str, rate: float) -> str:
        """Return the option with another rate, as the command line takes it; no reason stands for all."""
        if not reason:
            return f"--max_failure_rate {rate:g}"
        # All reasons, because the option replaces the rates of a file, and does not add to them.
        rates = {**dict(self.max_rates), reason: rate}
        return f"--max_failure_rates {','.join(f'{name}={rate:g}' for name, rate in rates.items())}"


def _rounded_up(rate: float) -> float:
    """Return the next rate of at most two digits."""
    digits = 1 - math.floor(math.log10(rate))
    # Rounded first, because 0.07 * 100 is a little more than 7.
    return min(1.0, math.ceil(round(rate * 10**digits, 9)) / 10**digits)


def _worst(counts: Mapping[str, int]) -> str:
    worst = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_NAMED]
    return ", ".join(f"{name or 'local files'} ({count:,})" for name, count in worst)


class BudgetWatch:
    """A check of the budget in one process; safe to call from several threads.

    Each process checks its own images, because they are a random sample of the input, and because no runner
    carries a number between processes. The check stops a run only if chance can't explain the sample's rate.
    In the split layout each side has a watch: one counts failures up to decoding, the other the model's.
    """

    def __init__(self, budget: FailureBudget, in_flight: Callable[[], int] = lambda: 0) -> None:
        """Start with no images; `in_flight` returns the largest number of images in flight in the process."""
        self._budget = budget
        self._in_flight = in_flight
        self._lock = threading.Lock()
        self._images = 0
        self._reasons: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()

    def count(self, result: Prediction | Failure | PackedImage) -> None:
        """Count a finished image.

        Raises:
          RunError: Too many images have failed.
        """
        # Under a lock, because bundles on several threads share the watch, and a count that is lost would
        # shift the rate.
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
            # Images in flight count as good, because failures overtake them: an image that can't be fetched
            # is finished before images that came earlier are labelled.
            begun = self._images + self._in_flight()
            excess = self._budget.excess(begun, self._reasons, self._hosts, _TOLERANCE)
        if excess:
            raise RunError(f"Stopped early: {excess}")
