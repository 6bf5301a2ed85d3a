"""The page's scripts in an empty page, whose functions tests call one by one."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, settings
from qsearch_reports.page.modules import join_modules

QUICK = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
"""Few examples, the same at each run: each is a call into the browser."""


class Scope:
    """An empty page in the front tab with all scripts of a study's page and of the index."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.tab = driver.current_window_handle
        self._run(f'"use strict";\n{join_modules("study.js", "index.js")}')

    def evaluate(self, expression: str, **values: Any) -> Any:
        """Return the value of an expression of JavaScript, awaited, as JSON would hold it.

        It may use the scripts' functions, ``await``, and the names of ``values``; it may also be
        statements in braces, with ``return``.
        """
        body = expression if expression.startswith("{") else f"({expression})"
        # As in the page: a literal would take the name __proto__ for something else.
        given = ", ".join(f"JSON.parse({json.dumps(json.dumps(v))})" for v in values.values())
        return self._run(f"(async ({', '.join(values)}) => {body})({given})")

    def _run(self, source: str) -> Any:
        self.driver.switch_to.window(self.tab)
        done = self.driver.execute_cdp_cmd(
            "Runtime.evaluate",
            {"expression": source, "awaitPromise": True, "returnByValue": True},
        )
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return done["result"].get("value")
