"""What the tests do with a browser."""

from __future__ import annotations

import json


def open_page(browser, path):
    """Open a page from a file on a wide light screen, with nothing in the logs from before."""
    show(browser, width=1400, scheme="light")
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(path.as_uri())


def requested(browser):
    """Addresses that were asked for since the page was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


def wait(browser, condition):
    return wait_until(browser, lambda: browser.execute_script(condition))


def wait_until(browser, holds):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 20).until(lambda _: holds())


def show(browser, *, width=None, scheme=None, media=""):
    if width:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    if scheme:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        emulated = {"media": media, "features": features}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)


def click(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)
