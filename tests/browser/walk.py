"""Walk the pages of the running app in a real Chromium, in both themes and widths, and note whatever is wrong on them."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

WIDTHS = (1440, 390)
THEMES: tuple[Any, ...] = ("light", "dark")
HOSTS = {"localhost", "127.0.0.1"}
QUIET = """() => {
    const app = document.querySelector('[data-testid=stApp]'), main = document.querySelector('[data-testid=stMainBlockContainer]')
    const waits = '[data-testid=stSkeleton], [data-testid=stSpinner], [data-stale=true]'
    const ready = app && main && main.querySelector('h1, h2, h3') && app.dataset.testScriptState === 'notRunning' && !document.querySelector(waits)
    return ready ? main.innerText.length + ' ' + main.scrollHeight + ' ' + main.querySelectorAll('*').length : null
}"""
SIDEWAYS = "main => main.scrollWidth - main.clientWidth"
# What axe holds against the page; ``known``: the place in the list of exceptions (a rule, a selector) that each of them has, or -1.
AXE = """async exceptions => {
    const rules = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']
    const found = await axe.run(document, {resultTypes: ['violations'], runOnly: {type: 'tag', values: rules}})
    const node = one => { try { return document.querySelector(one.target[one.target.length - 1]) } catch { return null } }
    const known = (rule, one) => exceptions.findIndex(([its, selector]) => its === rule && node(one)?.closest(selector))
    return found.violations.filter(one => ['serious', 'critical'].includes(one.impact)).flatMap(one => one.nodes.map(at => ({
        rule: one.id, impact: one.impact, known: known(one.id, at), html: at.html.slice(0, 300), target: at.target.join(' '), why: at.failureSummary,
    })))
}"""


def axe_script() -> str:
    """axe-core's source, from the package of requirements-dev.txt; nothing of that package is run."""
    found = importlib.util.find_spec("axe_playwright_python")
    assert found and found.origin, "axe-core comes with requirements-dev.txt: `make test` installs it"
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@dataclass
class Found:
    """What was wrong: where, and what."""

    seen: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    exceptions: list[str] = field(default_factory=list)
    sideways: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    axe: list[dict[str, Any]] = field(default_factory=list)


def settle(page: Any, seconds: float = 120) -> None:
    """Until the page's script has ended and what it shows stays the same for half a second."""
    end, before, same = time.monotonic() + seconds, None, 0
    while same < 3:
        now = page.evaluate(QUIET)
        same = same + 1 if now is not None and now == before else 0
        before = now
        assert time.monotonic() < end, f"{page.url} does not come to rest"
        page.wait_for_timeout(170)


def of_run(name: str, run_id: str) -> str:
    """The selector of a run's own widget (in a class Streamlit writes an id's dots otherwise)."""
    return f"[class*='st-key-{name}-'][class*='{run_id[-4:]}']"


def addresses(page: Any, url: str) -> list[str]:
    """The pages that the app itself lists in its navigation."""
    page.goto(url)
    links = page.locator("[data-testid=stSidebarNavLink]")
    links.first.wait_for(timeout=60_000)
    settle(page)
    return [link.get_attribute("href") for link in links.all()]


def parts(page: Any) -> Iterator[str]:
    """Each part of a page that has several, chosen one after the other; "" for a page in one part."""
    choice = page.locator(".st-key-part [role=radio], .st-key-tab [role=tab]")
    names = choice.all_inner_texts()
    for name in names or [""]:
        if name:
            choice.filter(has_text=name).first.click()
            settle(page)
        yield name


def listen(context: Any, found: Found) -> None:
    """Note errors of the console and requests to other hosts, on every page of ``context``."""

    def said(message: Any) -> None:
        # Below a sub-page's address Streamlit first asks there for its own parts, and finds them at the root.
        own = "/_stcore/" in str(message.location.get("url")) and "404" in message.text
        if message.type == "error" and not own:
            found.console.append(f"{message.page.url if message.page else ''}: {message.text} {message.location.get('url')}")

    def asked(url: str) -> None:
        if urlsplit(url).scheme in ("http", "https", "ws", "wss") and urlsplit(url).hostname not in HOSTS:
            found.outside.append(url)

    context.on("console", said)
    context.on("weberror", lambda error: found.console.append(str(error.error)))
    context.on("request", lambda request: asked(request.url))
    context.on("page", lambda page: page.on("websocket", lambda socket: asked(socket.url)))


def walk(browser: Any, url: str, home: str, exceptions: Sequence[tuple[str, str]] = ()) -> Found:
    """Every page, every part, both themes and widths. ``home`` says in what is found which home it was."""
    found, script = Found(), axe_script()
    context = browser.new_context(viewport={"width": WIDTHS[0], "height": 1000}, reduced_motion="reduce")
    context.set_default_timeout(60_000)
    listen(context, found)
    page = context.new_page()
    for address in addresses(page, url):
        page.set_viewport_size({"width": WIDTHS[0], "height": 1000})
        page.goto(address)
        settle(page)
        page.evaluate(script)
        for part in parts(page):
            where = f"{home} {urlsplit(address).path}{f' ({part})' if part else ''}"
            found.seen.append(where)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 1000})
                for theme in THEMES:
                    look(page, found, f"{where}, {theme}, {width} px", theme)
                    if (width, theme) != (
                        WIDTHS[-1],
                        "dark",
                    ):  # by then each has been looked at: the width in light, the theme when wide
                        found.axe += [{**one, "where": f"{where}, {theme}, {width} px"} for one in page.evaluate(AXE, exceptions)]
            page.set_viewport_size({"width": WIDTHS[0], "height": 1000})
    context.close()
    return found


def look(page: Any, found: Found, where: str, theme: str) -> None:
    page.emulate_media(color_scheme=theme)
    settle(page)
    wrong = page.get_by_test_id("stException").or_(page.get_by_test_id("stAlert").filter(has_text="Something went wrong here"))
    for trouble in wrong.all():
        found.exceptions.append(f"{where}: {trouble.inner_text()[:300]}")
    if (wide := page.get_by_test_id("stMain").evaluate(SIDEWAYS)) > 1:
        found.sideways.append(f"{where}: by {wide} px")
