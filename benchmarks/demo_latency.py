"""How long after a key is its picture there? The page of examples/demo.py, typed into by a browser.

    apt-get install chromium chromium-driver && pip install selenium
    python benchmarks/demo_latency.py                         a minute

From the key to the frame that shows the picture, and what each request took. Writes
results_short/demo.json, and demo.png, the page itself.
"""

import argparse
import base64
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys

sys.path.insert(0, str(Path(__file__).parent.parent))

from config import choose_device, provenance

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "results_short" / "demo.json"
PROMPTS = ("a red circle", "two blue stars", "a green arrow left of a pink heart", "a big moon",
           "a small gray diamond at the top right", "a red circle and a blue star")  # fmt: skip
PACE = 0.08, 0.3  # seconds between two keys, from 40 to 150 words a minute
DONE = "return shown === number && pictures.every((p) => p?.number === number)"


def open_browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,990"):
        options.add_argument(flag)
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


def wait(browser: webdriver.Chrome) -> None:
    """Until all nine pictures are those of the prompt."""
    end = time.monotonic() + 60
    while not browser.execute_script(DONE):
        if time.monotonic() > end:
            raise TimeoutError("the page has not drawn within a minute")
        time.sleep(0.02)


def type_prompts(browser: webdriver.Chrome) -> None:
    """One after another, each in place of the one before."""
    rng = random.Random(0)
    for i, prompt in enumerate(PROMPTS):
        if i:
            press = ActionChains(browser, duration=0)
            press.key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).perform()
        for key in prompt:
            ActionChains(browser, duration=0).send_keys(key).perform()
            time.sleep(rng.uniform(*PACE))
        wait(browser)


def summary(values: list[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(values, p)), 1) for p in (50, 95)}


def measure(browser: webdriver.Chrome) -> dict:
    script = """return performance.getEntriesByName("key to picture").map(
                (entry) => ({all: entry.duration, ...entry.detail}))"""
    entries = browser.execute_script(script)
    parts = ("wait", "complete", "draw", "encode")
    return {
        "keys": len(entries),
        "key to picture, ms": summary([e["all"] for e in entries]),
        "of a request, ms": {part: summary([e[part] for e in entries]) for part in parts},
        "browser": f"headless Chromium {browser.capabilities['browserVersion']}",
    }


def take_picture(browser: webdriver.Chrome, path: Path) -> None:
    """The page, with what a word did."""
    browser.execute_script("""[...document.querySelectorAll("#caption button")].find(
        (button) => button.textContent === "star").click()""")
    time.sleep(1)
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    path.write_bytes(base64.b64decode(shot["data"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=RECORD, help=f"default: {RECORD.name}")
    args = parser.parse_args()
    weights = ROOT / "results_short" / "text_to_image_model.pth"
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--no-browser",
               "--model", str(weights)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        browser = open_browser()
        try:
            server.stdout.readline()
            browser.get(server.stdout.readline().split()[0])
            wait(browser)
            type_prompts(browser)
            result = measure(browser)
            take_picture(browser, args.output.with_suffix(".png"))
        finally:
            browser.quit()
            server.terminate()
    result |= {"about": provenance(choose_device("auto"))}
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
