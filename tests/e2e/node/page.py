"""A person's look at the status page, with a real browser: what is there, what changes, and what must not happen."""

import json
import os
import re
import signal
import subprocess
import sys
from urllib.parse import urlparse

from playwright.sync_api import expect, sync_playwright

told = json.loads(sys.argv[1])
url, ids, shots = told["url"], told["ids"], told["shots"]
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]
own = {urlparse(told[name]).netloc for name in ("url", "empty")}
problems, strangers = [], []


def vyr(*arguments):
    done = subprocess.run([told["vyr"], *arguments], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def watched(context):
    page = context.new_page()
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: strangers.append(request.url) if urlparse(request.url).netloc not in own else None)
    return page


def shoot(page, name):
    # A picture for the documentation has no business with this machine's name.
    page.evaluate("document.getElementById('host').textContent = 'edge-07'")
    page.screenshot(path=os.path.join(shots, name), animations="disabled")


def row(page, task):
    return page.locator(f'tr[data-id="{task}"]')


def no_sideways(page, what):
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{what} is {wide} pixels too wide"


def an_empty_node(page):
    page.goto(told["empty"])
    expect(page.locator("main")).to_contain_text("No tasks yet")
    expect(page.locator("main")).to_contain_text("vyr submit")
    page.get_by_role("link", name="Artifacts").click()
    expect(page.locator("main")).to_contain_text("The store is empty")
    page.get_by_role("link", name="Node", exact=True).click()
    expect(page.locator("main")).to_contain_text("No states yet")


def the_list(page):
    page.goto(url)
    expect(page.get_by_role("table", name="Tasks, newest first")).to_be_visible()
    for name, word in told["words"].items():
        expect(row(page, ids[name]).locator(".chip")).to_have_text(word)
    expect(page.locator("#health")).to_have_text("healthy")
    expect(page.locator("#running")).to_have_text("1")
    shoot(page, "page-light.png")
    # What happens from here on shows without a reload.
    page.evaluate("window.loadedOnce = true")
    new = vyr("submit", "--label", "run=live", told["sleep"], "--", "3000")
    expect(row(page, new).locator(".chip")).to_have_text("running")
    expect(row(page, new).locator(".c-took")).to_have_text(re.compile(r"[12]\.\d"))
    expect(row(page, new).locator(".chip")).to_have_text("succeeded", timeout=10_000)
    assert page.locator("tbody tr").first.get_attribute("data-id") == new, "the newest is first"
    assert page.evaluate("window.loadedOnce") is True
    # Narrowed, by status at the node and by words here.
    page.get_by_role("button", name="Failed", exact=True).click()
    expect(row(page, ids["trapped"])).to_be_visible()
    expect(row(page, ids["succeeded"])).to_have_count(0)
    assert {chip.inner_text() for chip in page.locator("tbody .chip").all()} == {"failed"}
    page.get_by_role("button", name="Lost", exact=True).click()
    expect(page.get_by_text("No task is lost")).to_be_visible()
    page.get_by_role("button", name="Show all tasks").click()
    search = page.get_by_role("searchbox")
    page.keyboard.press("/")
    expect(search).to_be_focused()
    page.keyboard.type("run=live")
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(row(page, new)).to_be_visible()
    search.fill("")
    expect(row(page, ids["succeeded"])).to_be_visible()
    # By keyboard alone.
    row(page, ids["trapped"]).locator(".open").focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{url}#/tasks/{ids['trapped']}")
    expect(page).to_have_title("failed · media/resize-images · VYR")


def a_trapped_task(page):
    expect(page.locator(".head .chip")).to_have_text("failed")
    expect(page.locator(".why")).to_contain_text("unreachable")
    expect(page.locator(".why pre")).to_contain_text("vyr_unreachable")
    assert page.evaluate("window.loadedOnce") is True


def a_task_in_full(page):
    page.goto(f"{url}#/tasks/{ids['succeeded']}")
    expect(page.locator(".head .chip")).to_have_text("succeeded")
    facts = page.locator(".provenance")
    expect(facts).to_contain_text("signed by this machine's key")
    expect(facts).to_contain_text("Wasm, a module")
    expect(page.locator(f'.provenance code[title="{told["digest"]}"]').first).to_be_visible()
    bars = page.locator(".spans .bar")
    expect(page.locator(".spans li").first).to_contain_text(told["root_span"])
    assert bars.count() >= 3 and all(bar.bounding_box()["width"] >= 3 for bar in bars.all())
    expect(page.locator(".spans .bar.critical").first).to_be_visible()
    page.locator(".spans .span:enabled").first.click()
    expect(page.locator(".spans .about").first).to_be_visible()
    page.locator(".spans .span:enabled").first.click()
    lines = page.locator(".lines li")
    expect(lines.filter(has_text="arg 1 one")).to_have_attribute("data-stream", "stdout")
    expect(lines.filter(has_text="copied")).to_have_attribute("data-stream", "stderr")
    page.get_by_role("button", name="stderr").click()
    expect(lines.filter(has_text="arg 1 one")).to_be_hidden()
    page.get_by_role("button", name="all", exact=True).click()
    shoot(page, "page-task.png")


def a_running_task(page):
    task = vyr("submit", told["sleep"], "--", "2500")
    page.goto(f"{url}#/tasks/{task}")
    expect(page.locator(".head .chip")).to_have_text("running")
    expect(page.locator(".lines")).to_contain_text("sleeping")
    expect(page.locator(".provenance")).to_contain_text("signed by this machine's key")
    expect(page.locator(".figures")).to_contain_text("mapped")
    expect(page.locator(".spans .bar.going").first).to_be_visible()
    expect(page.locator(".lines")).to_contain_text("woke", timeout=10_000)
    expect(page.locator(".head .chip")).to_have_text("succeeded")
    expect(page.locator(".spans .bar.going")).to_have_count(0)


def hostile_text(page):
    page.goto(f"{url}#/tasks/{ids['hostile']}")
    expect(page.locator(".lines")).to_contain_text("<img src=x onerror=\"window.stolen=1\">")
    expect(page.locator(".request")).to_contain_text("<script>window.stolen=1</script>")
    expect(page.locator(".lines")).to_contain_text("red text")
    # All of it, also what is not in view.
    text = page.locator("main").text_content()
    assert "red text" in text and "\x1b" not in text and "\u202e" not in text and "[31m" not in text, text
    page.goto(f"{url}#/tasks")
    expect(row(page, ids["hostile"])).to_contain_text("<b>bold</b>")
    assert page.evaluate("window.stolen") is None
    assert page.locator("main img, main script, main iframe, td b:text-is('bold')").count() == 0


def cut_text(page):
    """Writes end anywhere: within a colour, within a character."""
    def entry(stream, data, **more):
        return {"stream": stream, "time": "2026-01-01T00:00:00Z", "attempt": 1, "data": data, **more}

    writes = [
        entry("stdout", "one \x1b[3"), entry("stderr", "else\n"), entry("stdout", "1mred\x1b[0m "),
        entry("stdout", "f\ufffd", data_base64="ZsM="), entry("stdout", "\ufffdr", data_base64="vHI="),
        entry("stdout", " you\n"), entry("stdout", "next\x1b"), entry("stdout", "[1mline\n"),
    ]
    answer = {"entries": writes, "next": 99, "last": True, "dropped_bytes": 0}
    page.route("**/logs?offset=*", lambda route: route.fulfill(json=answer))
    page.goto(f"{url}#/tasks/{ids['failed']}")
    expect(page.locator(".lines .text")).to_have_text(["one red f\u00fcr you", "else", "nextline"])
    page.unroute("**/logs?offset=*")


def others(page):
    page.goto(f"{url}#/tasks/{ids['refused']}")
    expect(page.locator(".why")).to_contain_text("no signature")
    expect(page.locator(".why")).to_contain_text("Next:")
    expect(page.locator(".provenance")).to_contain_text("nothing of it ran")
    page.goto(f"{url}#/tasks/{ids['noisy']}")
    expect(page.locator(".foot")).to_contain_text("were dropped")
    page.goto(f"{url}#/tasks/01a213d9-6b35-7763-a12b-196331e176a7")
    expect(page.locator("main")).to_contain_text("there is no task")
    page.get_by_role("link", name="Artifacts").click()
    table = page.get_by_role("table", name="Artifacts in the store")
    expect(table).to_contain_text(told["name"])
    expect(table.locator('.chip[data-cache="mapped"]').first).to_be_visible()
    table.get_by_role("button", name="Check").first.click()
    expect(table.locator(".verdict").first).to_be_visible()
    page.get_by_role("link", name="Node", exact=True).click()
    expect(page.locator("main")).to_contain_text("Wasmtime")
    expect(page.locator("main")).to_contain_text("anonymous")
    page.get_by_role("link", name="VYR, all tasks").click()
    expect(row(page, ids["succeeded"])).to_be_visible()


def phone_and_dark(browser):
    context = browser.new_context(viewport={"width": 360, "height": 740}, device_scale_factor=2, color_scheme="light")
    page = watched(context)
    for path in ["", f"#/tasks/{ids['succeeded']}", f"#/tasks/{ids['hostile']}", f"#/tasks/{ids['trapped']}", "#/artifacts", "#/node"]:
        page.goto(url + path)
        page.wait_for_load_state("load")
        expect(page.locator("main .panel").first).to_be_visible()
        page.wait_for_timeout(400)
        no_sideways(page, path or "the list")
    page.goto(url + "#/tasks")
    expect(row(page, ids["succeeded"])).to_be_visible()
    shoot(page, "page-phone.png")
    context.close()
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="dark")
    page = watched(context)
    page.goto(f"{url}#/tasks")
    expect(row(page, ids["succeeded"])).to_be_visible()
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light == "rgb(14, 16, 20)", light
    shoot(page, "page-dark.png")
    context.close()


def the_node_goes(page):
    os.kill(told["pid"], signal.SIGKILL)
    expect(page.locator("#notice")).to_contain_text("can't be reached", timeout=10_000)
    expect(page.locator("#health")).to_have_text("not reached")


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=told["chromium"], args=QUIET)
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    page = watched(context)
    for part in [an_empty_node, the_list, a_trapped_task, a_task_in_full, a_running_task, hostile_text, cut_text, others]:
        part(page)
        print("done", part.__name__, flush=True)
    phone_and_dark(browser)
    assert not problems, problems
    the_node_goes(page)
    assert not strangers, strangers
    browser.close()
print("done")
