"""Pictures of every page of the real app, for the documentation: `make screenshots`.

    .venv/bin/python -m scripts.screenshots [--home FOLDER] [--out docs/img] [--only compare,chat]

Both widths in light, the wide one in dark as well; what a page shows by itself, each of its parts. Without ``--home`` a fresh one is
opened, which holds what everybody finds there. A picture is at most 120 kB (WebP, its quality follows).
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import sync_playwright

from ema_core.settings import PROJECT
from tests.browser.conftest import FLAGS, chromium, kill_home, start_app
from tests.browser.walk import addresses, parts, settle

MOST_BYTES = 120_000
SIZES = {"wide": (1440, 2400), "narrow": (390, 2600)}
"""Width, and the height that a long page is cut at."""
WAYS = (("wide", "light"), ("wide", "dark"), ("narrow", "light"))


def picture(page: Any, path: Path, size: str, theme: str) -> int:
    """The page from its top; how many bytes."""
    width, most = SIZES[size]
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 900})
    settle(page)
    page.get_by_test_id("stMain").evaluate("main => main.scrollTo(0, 0)")
    height = page.get_by_test_id("stMain").evaluate("main => main.scrollHeight")
    page.set_viewport_size({"width": width, "height": max(900 if size == "wide" else 700, min(most, height))})
    settle(page)
    page.wait_for_timeout(800)  # figures fit themselves to the new size
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    for quality in range(85, 20, -10):
        image.save(path, "WEBP", quality=quality, method=6)
        if path.stat().st_size <= MOST_BYTES:
            break
    return path.stat().st_size


def name_of(address: str, part: str) -> str:
    page = urlsplit(address).path.strip("/") or "home"
    return "-".join([page, *part.lower().replace(",", "").split()])


def shoot(url: str, out: Path, only: set[str]) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce").new_page()
        page.set_default_timeout(120_000)
        for address in addresses(page, url):
            if only and name_of(address, "") not in only:
                continue
            page.set_viewport_size({"width": 1440, "height": 900})
            page.goto(address)
            settle(page)
            for part in parts(page):
                for size, theme in WAYS:
                    path = out / f"{name_of(address, part)}-{size}{'-dark' if theme == 'dark' else ''}.webp"
                    print(f"{path}  {picture(page, path, size, theme) / 1000:.0f} kB", flush=True)
                page.set_viewport_size({"width": 1440, "height": 900})
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "img")
    parser.add_argument("--only", default="", help="names of pages as in their addresses, with commas")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as fresh:
        home = (args.home or Path(fresh) / "home").resolve()
        os.environ["EMA_HOME"] = str(home)
        app = start_app()
        try:
            shoot(app.url, args.out, set(filter(None, args.only.split(","))))
        finally:
            kill_home(home)


if __name__ == "__main__":
    main()
