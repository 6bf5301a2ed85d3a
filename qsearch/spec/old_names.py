"""What earlier study files could say, and what replaced it; for messages alone."""

from __future__ import annotations

OLD_NAMES: dict[str, str] = {
    "search.walks": "is now called search.local_search",
    "search.screening": "was removed, since it made the search worse; leave it out",
    "search.scores": "was removed: scores always come from the trainer; leave it out",
}
"""By dotted field."""
