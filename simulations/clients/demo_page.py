#!/usr/bin/env python3
"""Opens the demo page of a Trunkline node in headless Chromium and places a relay-only call with it.

  demo_page.py 'http://127.0.0.1:8080/#key=<keyId>:<secret>' --transport tls --ignore-certificate-errors --seconds 5

Prints one JSON line of statistics per second and, last, `OK` or `FAIL <reason>`; the exit code says the same. The call
counts when the selected candidates are `relay` on both sides, the relay is reached over the transport that was asked for,
and decoded frames and bytes keep growing on both sides. Run it in the network namespace of the client.

Needs the Python package `playwright` and a Chromium or Chrome on this machine.
"""

import argparse
import json
import shutil
import sys
import time

from playwright.sync_api import Error as BrowserError
from playwright.sync_api import sync_playwright

PAGE_MS_MAX = 15_000
CONNECT_S_MAX = 30.0
# The page gives up by itself after 20 s (10 s for an address, 10 s for an echo); this is for a page that hangs.
NETWORK_TEST_S_MAX = 45.0
# A loaded machine may take a moment from "connected" to the first decoded frame.
FIRST_FRAME_S_MAX = 10.0
# Nor does one late frame on a loaded machine mean a broken relay; this many seconds without any do.
STALL_S_MAX = 3
BROWSER_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
    # A namespace or machine without a default route has nothing but loopback to gather on.
    "--allow-loopback-in-peer-connection",
]
TRANSPORTS = ("udp", "tcp", "tls")


class Failure(Exception):
    """What the page did not do."""


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="the demo link with its #key=<keyId>:<secret>")
    parser.add_argument("--transport", choices=("any", *TRANSPORTS), default="any", help="how to reach the relay")
    parser.add_argument("--seconds", type=int, default=5, choices=range(1, 3601), metavar="N", help="how long the call must go on")
    parser.add_argument("--network-test", action="store_true", help="also run the network test; UDP, TCP and TLS must work")
    parser.add_argument("--ignore-certificate-errors", action="store_true", help="accept a self-signed TLS certificate")
    parser.add_argument("--screenshot", metavar="FILE", help="save the whole page as a PNG at the end, failed or not")
    parser.add_argument("--dark", action="store_true", help="open the page with the dark colour scheme")
    parser.add_argument("--width", type=int, default=1280, help="width of the window in CSS pixels")
    parser.add_argument("--chromium", default=default_browser(), help="the browser to start (default: %(default)s)")
    return parser.parse_args()


def default_browser():
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


def open_page(playwright, arguments):
    flags = list(BROWSER_FLAGS)
    if arguments.ignore_certificate_errors:
        flags.append("--ignore-certificate-errors")
    browser = playwright.chromium.launch(executable_path=arguments.chromium, headless=True, args=flags)
    page = browser.new_page(
        viewport={"width": arguments.width, "height": 900},
        color_scheme="dark" if arguments.dark else "light",
        ignore_https_errors=arguments.ignore_certificate_errors,
    )
    faults = []
    page.on("pageerror", lambda error: faults.append(f"uncaught in the page: {error}"))
    page.on("console", lambda message: faults.append(message.text) if "Content Security Policy" in message.text else None)
    page.goto(arguments.url, timeout=PAGE_MS_MAX)
    return page, faults


def check_key_is_hidden(page):
    if "key=" in page.url:
        raise Failure(f"the secret is still in the visible URL: {page.url}")


def shown_problems(page):
    """The words that the page shows in place of success."""
    words = page.evaluate("[...document.querySelectorAll('.problem:not([hidden])')].map((e) => e.textContent)")
    return " ".join(words) or "the page gave no reason"


def start_call(page, transport):
    page.evaluate("(transport) => { window.trunkline.start(transport).catch(() => {}); }", transport)
    deadline = time.monotonic() + CONNECT_S_MAX
    while time.monotonic() < deadline:
        state = page.evaluate("document.documentElement.dataset.state")
        if state == "connected":
            return
        if state == "failed":
            raise Failure(f"the call did not connect: {shown_problems(page)}")
        time.sleep(0.1)
    raise Failure(f"not connected after {CONNECT_S_MAX:.0f} s: {shown_problems(page)}")


def await_first_frames(page):
    """Returns the first statistics in which both sides have decoded something."""
    deadline = time.monotonic() + FIRST_FRAME_S_MAX
    while True:
        stats = page.evaluate("window.trunkline.stats()")
        if all(stats[side]["framesDecoded"] > 0 for side in "ab"):
            return stats
        if time.monotonic() > deadline:
            raise Failure(f"no frame decoded within {FIRST_FRAME_S_MAX:.0f} s: {json.dumps(stats)}")
        time.sleep(0.1)


def watch_call(page, transport, seconds):
    readings = [await_first_frames(page)]
    for second in range(1, seconds + 1):
        time.sleep(1)
        stats = page.evaluate("window.trunkline.stats()")
        print(json.dumps({"second": second, **stats}), flush=True)
        readings.append(stats)
        for side in "ab":
            check_path(side, stats[side], transport)
            if second >= STALL_S_MAX:
                check_growth(side, readings[-1 - STALL_S_MAX][side], stats[side])
    for side in "ab":
        check_growth(side, readings[0][side], readings[-1][side])


def check_path(side, now, transport):
    if now["state"] != "connected":
        raise Failure(f"{side} is {now['state']}")
    for field in ("candidateType", "remoteCandidateType"):
        if now[field] != "relay":
            raise Failure(f"{side} has {field} {now[field]}, not relay")
    if transport != "any" and now["relayProtocol"] != transport:
        raise Failure(f"{side} reaches the relay over {now['relayProtocol']}, not {transport}")


def check_growth(side, earlier, now):
    for field in ("framesDecoded", "bytesReceived", "bytesSent"):
        if now[field] <= earlier[field]:
            raise Failure(f"{field} of {side} stands still at {now[field]}")


def run_network_test(page):
    page.evaluate("""() => {
      window.networkTestOutcome = null;
      window.trunkline.networkTest().then(
        (results) => { window.networkTestOutcome = { results }; },
        (error) => { window.networkTestOutcome = { error: error.message }; });
    }""")
    deadline = time.monotonic() + NETWORK_TEST_S_MAX
    while (outcome := page.evaluate("window.networkTestOutcome")) is None:
        if time.monotonic() > deadline:
            raise Failure(f"the network test took more than {NETWORK_TEST_S_MAX:.0f} s")
        time.sleep(0.1)
    if "error" in outcome:
        raise Failure(f"the network test did not run: {outcome['error']}")
    results = outcome["results"]
    print(json.dumps({"networkTest": results}), flush=True)
    broken = [f"{name}: {results[name]['detail']}" for name in TRANSPORTS if not results[name]["ok"]]
    if broken:
        raise Failure("the network test found " + "; ".join(broken))


def run(arguments):
    with sync_playwright() as playwright:
        page, faults = open_page(playwright, arguments)
        try:
            check_key_is_hidden(page)
            start_call(page, arguments.transport)
            watch_call(page, arguments.transport, arguments.seconds)
            if arguments.network_test:
                run_network_test(page)
            if faults:
                raise Failure("; ".join(faults))
        finally:
            if arguments.screenshot:
                page.screenshot(path=arguments.screenshot, full_page=True)
            page.context.browser.close()


def main():
    try:
        run(parse_arguments())
    except (Failure, BrowserError) as failure:
        # Playwright appends its call log; the last line printed must be the verdict.
        print(f"FAIL {str(failure).splitlines()[0]}", flush=True)
        return 1
    print("OK", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
