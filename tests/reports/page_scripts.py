"""Some of the page's modules in an empty page, whose functions tests call one by one."""

from __future__ import annotations

import json
from typing import Any

from qsearch_reports.page.modules import join_modules


class Scope:
    """An empty page with some of the page's modules in it."""

    def __init__(self, driver: Any, modules: tuple[str, ...], html: str = "") -> None:
        """Empty the front tab, and load modules of ``scripts/`` into it; they declare globals.

        ``html`` becomes the page's body, for scripts that look there.
        """
        self.driver = driver
        driver.get("about:blank")
        if html:
            self.evaluate("{document.body.innerHTML = html}", html=html)
        self._run(f'"use strict";\n{join_modules(*modules)}')

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
        done = self.driver.execute_cdp_cmd(
            "Runtime.evaluate",
            {"expression": source, "awaitPromise": True, "returnByValue": True},
        )
        if "exceptionDetails" in done:
            details = done["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return done["result"].get("value")
