"""The page of `wgpt serve` in headless Chromium, over its DevTools protocol: write, look, branch, save, stop, read a text, chat,
on a phone's width, without an error on the console.

    python serve_page.py http://127.0.0.1:8000/ [FOLDER for screenshots]
"""

import asyncio
import base64
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

try:
    import aiohttp
except ImportError as missing:
    print(f"SKIPPED: {missing}", file=sys.stderr)
    sys.exit(77)

BROWSER = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
if BROWSER is None:
    print("SKIPPED: there is no Chromium", file=sys.stderr)
    sys.exit(77)


class Tab:
    """A tab of the browser."""

    def __init__(self, socket):
        self.socket, self.number, self.complaints = socket, 0, []

    async def call(self, method, **params):
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        while True:
            message = json.loads((await self.socket.receive()).data)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(message["params"])
            if message.get("method") == "Runtime.consoleAPICalled" and message["params"]["type"] == "error":
                self.complaints.append(message["params"])
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    async def do(self, script):
        """Runs a script in the page, and returns its value."""
        result = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script):
        for _ in range(400):
            if value := await self.do(script):
                return value
            await asyncio.sleep(0.05)
        raise AssertionError(f"never: {script}")

    async def point_at(self, script):
        """Moves the mouse to the middle of an element."""
        box = await self.do(f"(({script}).scrollIntoView({{block: 'center'}}), ({script}).getClientRects()[0].toJSON())")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        return x, y

    async def click(self, script):
        x, y = await self.point_at(script)
        for kind in ["mousePressed", "mouseReleased"]:
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def type(self, field, text):
        await self.do(f"(({field}).focus(), ({field}).select())")
        await self.call("Input.insertText", text=text)

    async def picture(self, folder, name):
        data = (await self.call("Page.captureScreenshot", format="png"))["data"]
        (folder / f"{name}.png").write_bytes(base64.b64decode(data))


async def check(tab, url, folder):
    text, count = "$('written').textContent", "$('written').children.length"
    for domain in ["Page", "Runtime", "Log"]:
        await tab.call(f"{domain}.enable")
    await tab.call("Page.navigate", url=url)
    await tab.until("document.readyState === 'complete' && typeof model !== 'undefined' && model !== null")

    # Write: the text grows, each token has its surprisal.
    await tab.type("$('prompt')", "The little owl")
    await tab.type("$('max_tokens')", "12")
    await tab.type("$('seed')", "3")
    await tab.click("$('go')")
    await tab.until(f"{count} > 12 && $('stop').disabled")
    written = await tab.do(text)
    assert written.startswith("The little owl"), written
    await tab.click("$('go')")
    await tab.until(f"{count} > 12 && $('stop').disabled")
    assert await tab.do(text) == written, "the same seed writes the same"

    # Look: the alternatives of a token, and their probabilities.
    last = "$('written').children[$('written').children.length - 6]"
    await tab.point_at(last)
    await tab.until("!$('card').hidden && $('card').querySelectorAll('button').length >= 8")
    assert re.search(r"\d %", await tab.do("$('card').textContent"))
    await tab.picture(folder, "write")

    # Branch: go on from another token; the old branch is still there.
    await tab.click("[...$('card').querySelectorAll('button')].find((b) => !b.hasAttribute('aria-current'))")
    await tab.until(f"$('stop').disabled && {text} !== {json.dumps(written)} && {count} > 12")
    branched = await tab.do(text)
    assert await tab.do("$('written').querySelectorAll('.forks').length") >= 1
    await tab.click("$('back')")
    assert await tab.until(text) == written, "the other branch is shown again"
    await tab.click("$('back')")
    assert await tab.do(text) == branched

    # Save what is shown, to be looked at in the end.
    await tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    await tab.click("$('export')")
    saved = folder / "text.html"
    for _ in range(200):
        if saved.is_file() and saved.stat().st_size:
            break
        await asyncio.sleep(0.05)

    # By keyboard: a token is reached and says what it is; Escape closes the card.
    await tab.do("$('written').children[4].focus()")
    await tab.until("!$('card').hidden")
    assert "bits" in await tab.do("document.activeElement.getAttribute('aria-label')")
    await tab.call("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    await tab.until("$('card').hidden")

    # Stop.
    await tab.type("$('max_tokens')", "100000")
    await tab.click("$('more')")
    await tab.click("$('stop')")
    await tab.until("$('stop').disabled")

    # Read a text, and see its tokens.
    await tab.click("document.querySelector('[data-tab=read]')")
    await tab.type("$('given')", "The owl said naïve things — and the fox?")
    await tab.click("$('score')")
    await tab.until("/perplexity/.test($('note').textContent)")
    assert await tab.do("$('scored').textContent") == "The owl said naïve things — and the fox?"
    await tab.picture(folder, "read")
    await tab.click("document.querySelector('[data-tab=tokens]')")
    await tab.type("$('cut')", "The owl 😀")
    await tab.until("/bytes:/.test($('pieces').textContent)")

    # Chat.
    await tab.click("document.querySelector('[data-tab=chat]')")
    await tab.type("$('message')", "Who are you?")
    await tab.type("$('max_tokens')", "10")
    await tab.click("$('send')")
    await tab.until("$('talk').children.length === 2 && $('talk').lastChild.textContent.length > 0 && $('hush').disabled")

    # On a phone nothing is wider than the screen.
    await tab.click("document.querySelector('[data-tab=write]')")
    await tab.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    assert await tab.do("document.documentElement.scrollWidth <= 360")
    await tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    await tab.picture(folder, "phone")
    assert not tab.complaints, tab.complaints
    others = await tab.do(f"performance.getEntriesByType('resource').filter((e) => !e.name.startsWith({json.dumps(url)})).length")
    assert others == 0, "no other host is asked"
    await check_saved(tab, saved, branched)


async def check_saved(tab, saved, text):
    """The saved file works by itself: the same text, its colours, what each token is, no script."""
    assert "http" not in saved.read_text(), "the file names another place"
    await tab.call("Network.enable")
    await tab.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    await tab.call("Page.navigate", url=saved.as_uri())
    await tab.until("location.protocol === 'file:' && document.readyState === 'complete'")
    assert (await tab.do("document.body.textContent")).strip() == text.strip()
    assert await tab.do("document.scripts.length") == 0
    colours = "new Set([...document.body.firstElementChild.children].map((e) => getComputedStyle(e).backgroundColor)).size"
    assert await tab.do(colours) > 2, "the tokens are coloured by their surprisal"
    titles = await tab.do("[...document.body.firstElementChild.children].map((e) => e.title)")
    assert sum("bits" in title for title in titles) >= 12, titles
    assert not tab.complaints, tab.complaints


async def main():
    url = sys.argv[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else profile)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        arguments += ["--window-size=900,800", "--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}/user"]
        browser = await asyncio.create_subprocess_exec(BROWSER, *arguments, stderr=asyncio.subprocess.PIPE)
        try:
            while b"DevTools listening" not in (line := await asyncio.wait_for(browser.stderr.readline(), 30)):
                assert line, "the browser has ended"
            address = re.search(rb"ws://([^/]+)/", line)[1].decode()
            async with aiohttp.ClientSession() as session:
                async with session.put(f"http://{address}/json/new?about:blank") as answer:
                    socket = (await answer.json())["webSocketDebuggerUrl"]
                async with session.ws_connect(socket, max_msg_size=0) as connection:
                    await check(Tab(connection), url, folder)
        finally:
            browser.terminate()
            await browser.wait()
    print("the page: well")


asyncio.run(main())
