"""Some of the page's modules in an empty page, whose functions tests call one by one."""

from __future__ import annotations

import json
from typing import Any

from qsearch_reports.page.modules import join_modules


class ScriptError(AssertionError):
    """A script threw."""


class Scope:
    """An empty page with some of the page's modules in it."""

    def __init__(self, driver: Any, modules: tuple[str, ...], html: str = "") -> None:
        """Empty the front tab, and load modules with all that they import into it.

        Args:
            driver: Selenium's driver of Chromium.
            modules: File names in ``scripts/``; what they declare becomes global.
            html: Content of the page's body, for scripts that look there.
        """
        self.driver = driver
        driver.get("about:blank")
        if html:
            self.evaluate("{document.body.innerHTML = html}", html=html)
        self._run(f'"use strict";\n{join_modules(*modules)}')

    def evaluate(self, expression: str, **values: Any) -> Any:
        """Return the value of an expression of JavaScript, awaited if it is a promise.

        Args:
            expression: May use the scripts' functions, ``await``, and the names of ``values``;
                or statements in braces, with ``return``.
            values: Values that JSON can hold.

        Returns:
            The value as JSON would hold it; None where that is undefined.

        Raises:
            ScriptError: If it throws, or is no JavaScript.
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
            raise ScriptError(details.get("exception", {}).get("description", details["text"]))
        return done["result"].get("value")
