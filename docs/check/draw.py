"""Draws the Mermaid diagrams of docs/*.md as pictures for the site, which shows them without a script.

Where a diagram is, GitHub draws it; the site has the picture that is named in a comment before it:

    <!-- on the site: img/task-life.svg -->

A picture says of which text it was drawn, and `docs-check site` fails when that has changed. To draw anew, from the
project's folder:

    npm pack mermaid@12.3.0 && tar -xzf mermaid-12.3.0.tgz package/dist/mermaid.min.js
    "$(envs/tools path playwright)" docs/check/draw.py package/dist/mermaid.min.js "$(envs/tools path chromium)"
"""

import hashlib
import re
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

BLOCK = re.compile(r"<!-- on the site: (\S+) -->\n\n```mermaid\n(.*?)```", re.DOTALL)
# Labels as text of the picture: a picture can't have HTML in it.
SETTINGS = """{
    startOnLoad: false, theme: "neutral", htmlLabels: false, deterministicIds: true,
    fontFamily: "Liberation Sans, Helvetica, Arial, sans-serif", state: { htmlLabels: false },
}"""


def main(mermaid: str, chromium: str) -> None:
    docs = Path(__file__).resolve().parent.parent
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_content("<body></body>")
        page.add_script_tag(path=mermaid)
        page.evaluate(f"mermaid.initialize({SETTINGS})")
        for source in sorted(docs.glob("*.md")):
            for name, text in BLOCK.findall(source.read_text(encoding="utf-8")):
                svg: str = page.evaluate("async text => (await mermaid.render('diagram', text)).svg", text)
                digest = hashlib.sha256(text.encode()).hexdigest()
                (docs / name).write_text(f"<!-- drawn of sha256:{digest} -->\n{svg}\n", encoding="utf-8")
                print(f"{name}, of {source.name}")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
