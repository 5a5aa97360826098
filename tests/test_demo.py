"""Protects the page that draws as you type: what it answers, whom it refuses, how it is used."""

import base64
import http.client
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import checkpoint
from config import ModelConfig, UserError
from generate import Drawing, save_image
from model import TextToImageModel, to_uint8
from tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import demo  # noqa: E402

CAPTION = "a small red circle at the left of a big blue star"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One that draws with a tiny model, in a thread of this process; its results/ holds a run, too.
    What lies elsewhere is no model of the list."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = ModelConfig(image_size=32, text_dim=32, channels=(16, 16, 8), max_tokens=24)
        torch.manual_seed(0)
        model = TextToImageModel(config, Tokenizer.learn([CAPTION], min_count=1))
        for weight in model.parameters():  # so that none of them starts at nothing
            weight.data += 0.2 * torch.randn_like(weight)
        for file in ("weights.pth", "results/flags/checkpoint.pth", "elsewhere.pth"):
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            checkpoint.save(model.state_dict(), Path(file))
        server = demo.Server(demo.DemoConfig("weights.pth", device="cpu"))
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield server
        server.shutdown()
        server.server_close()
        thread.join()


def ask(server, path: str = "/draw", body: object = None, method: str = "POST", **headers: str):
    """Status and content of a reply; a body that is no bytes is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    body = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body if method == "POST" else None, names)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    assert b"Traceback" not in content
    return reply.status, json.loads(content) if path != "/" and content else content


def raw(server, request: bytes) -> bytes:
    """The reply to these bytes."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def asked(**values) -> dict:
    return {"model": "weights.pth", "prompt": "a red circle"} | values


def test_pictures_are_those_of_the_model_and_keep_what_they_were_drawn_from(server, tmp_path):
    status, reply = ask(server, body=asked(seeds=[3, 4], temperature=0.5))
    assert status == 200 and set(reply["ms"]) == {"wait", "complete", "draw", "encode"}
    model = checkpoint.load_model("weights.pth")
    captions = model.complete(["a red circle"] * 2, [3, 4], 0.5)
    drawn = to_uint8(model.draw(captions, [3, 4], 0.5)).permute(0, 2, 3, 1).numpy()
    for i, picture in enumerate(reply["pictures"]):
        image = Image.open(io.BytesIO(base64.b64decode(picture["png"])))
        assert np.abs(np.asarray(image).astype(int) - drawn[i]).max() <= 1
        assert picture["caption"] == captions[i]
        mark = checkpoint.fingerprint(model)
        texts = Drawing("a red circle", 3 + i, 0.5, captions[i], mark).texts()
        save_image(drawn[i], tmp_path / "a.png", texts)
        assert image.text == Image.open(tmp_path / "a.png").text == texts
        assert picture["file"] == f"a-red-circle-seed{3 + i}-temperature0.5.png"


def test_as_typed_nothing_is_completed(server):
    _, reply = ask(server, body=asked(prompt="Red, circle", as_typed=True))
    [picture] = reply["pictures"]
    assert picture["caption"] == "Red, circle" and picture["words"] == ["red", ",", "circle"]


def test_where_words_acted_is_told_for_each_word(server):
    status, reply = ask(server, "/look", asked(prompt="a red circle", seeds=[1]))
    maps = np.array(reply["maps"])
    expected = checkpoint.load_model("weights.pth").look("a red circle", 1).maps[1:] * 1000
    assert status == 200 and np.abs(maps - expected.round().numpy()).max() <= 1


def test_unknown_words_come_with_the_nearest_known_one(server):
    status, reply = ask(server, "/hints", asked(prompt="a Cirkle zzz"))
    assert status == 200 and reply["unknown"] == [["cirkle", "circle"], ["zzz", None]]
    assert "any picture" in ask(server, "/hints", asked(prompt="zzz"))[1]["note"]
    assert "first 23 words" in ask(server, "/hints", asked(prompt="red " * 30))[1]["note"]


def test_a_model_tells_its_words_most_frequent_first(server):
    status, reply = ask(server, "/open", {"model": "weights.pth"})
    assert status == 200 and reply["words"][0] == "a" and reply["completes"]
    assert set(reply["words"]) == set(CAPTION.split())


def test_only_models_of_the_list_are_opened(server):
    _, reply = ask(server, "/models", method="GET")
    assert reply["models"][0] == "weights.pth" and "results/flags" in reply["models"]
    assert ask(server, "/open", {"model": "results/flags"})[0] == 200
    for name in ("elsewhere.pth", "./weights.pth", "../weights.pth", "/etc/passwd", "", "a\0b"):
        assert ask(server, "/open", {"model": name}) == (
            400, {"error": "no such model is in the list"}
        )  # fmt: skip


def test_a_file_that_is_no_model_is_told_in_one_sentence(server):
    broken = Path("results/broken/checkpoint.pth")
    broken.parent.mkdir()
    broken.write_bytes(b"nothing")
    status, reply = ask(server, "/open", {"model": "results/broken"})
    shutil.rmtree(broken.parent)
    assert status == 400 and "is damaged, or no file of weights" in reply["error"]


def test_overtaken_requests_are_not_drawn(server, monkeypatch):
    drawn = []
    model = server.studio.model("weights.pth")
    draw = model.draw
    monkeypatch.setattr(model, "draw", lambda *given: drawn.append(given[0]) or draw(*given))
    statuses = {}

    def send(number: int) -> None:
        body = asked(prompt="red " * number, as_typed=True, page="p", number=number)
        statuses[number] = ask(server, body=body)[0]

    threads = [threading.Thread(target=send, args=[number]) for number in (1, 2, 3)]
    with server.studio.lock:  # as if a picture were drawn just now
        for number, thread in enumerate(threads, 1):
            thread.start()
            while server.studio.newest.get("p") != number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert statuses == {1: 409, 2: 409, 3: 200} and drawn == [["red red red "]]
    assert ask(server, body=asked(page="q", number=1))[0] == 200  # another page


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "no JSON"),
        (b"[" * 60_000, "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"9" * 5000, "no JSON"),
        ([], "no JSON object"),
        ({"path": "/etc/passwd"}, "no JSON object"),
        (asked(prompt=["a"]), "prompt is of the wrong type"),
        (asked(prompt="a" * 1001), "at most 1,000 characters"),
        (asked(seeds=[]), "seeds are 1 to 9"),
        (asked(seeds=[0] * 10), "seeds are 1 to 9"),
        (asked(seeds=[-1]), "seeds are 1 to 9"),
        (asked(seeds=[2**32]), "seeds are 1 to 9"),
        (asked(seeds=[True]), "seeds are 1 to 9"),
        (asked(seeds="1"), "seeds is of the wrong type"),
        (asked(temperature=1.6), "temperature is a number from 0 to 1.5"),
        (asked(temperature=float("nan")), "temperature is a number from 0 to 1.5"),
        (asked(temperature=10**400), "temperature is a number from 0 to 1.5"),
        (asked(as_typed=1), "as_typed is of the wrong type"),
        (asked(number=-1), "out of range"),
        (asked(page="p" * 65), "out of range"),
    ],
)
def test_bad_values_are_told_in_one_sentence(server, body, told):
    status, reply = ask(server, body=body)
    assert status == 400 and told in reply["error"]


@pytest.mark.parametrize("prompt", ["", "\ud800 red", "\0", "🦊 лиса", "<script>", "red " * 250])
def test_any_prompt_is_drawn(server, prompt):
    for as_typed in (False, True):
        status, reply = ask(server, body=asked(prompt=prompt, as_typed=as_typed))
        assert status == 200 and reply["pictures"][0]["png"]
        caption = reply["pictures"][0]["caption"]
        assert ask(server, "/look", asked(prompt=caption))[0] == 200
    assert ask(server, "/hints", asked(prompt=prompt))[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/demo.py", "/../demo.py", "/%2e%2e/config.py", "//etc/passwd", "/draw/", "/draw?x", "/page",
     "/__class__"],
)  # fmt: skip
def test_other_paths_are_not_there(server, path):
    for method in ("GET", "POST"):
        assert ask(server, path, method=method)[0] == 404


def test_other_methods_are_refused(server):
    for method, path in (("GET", "/draw"), ("POST", "/models"), ("PUT", "/draw"), ("HACK", "/"),
                         ("OPTIONS", "/draw"), ("DELETE", "/models"), ("HEAD", "/")):  # fmt: skip
        assert ask(server, path, method=method)[0] == 405


def test_other_sites_are_refused(server):
    port = server.server_port
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", ""):
        assert ask(server, "/", method="GET", Host=host)[0] == 403
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}", "http://127.0.0.1"):
        assert ask(server, body=asked(), Origin=origin)[0] == 403
    assert ask(server, body=asked(), Origin=f"http://127.0.0.1:{port}")[0] == 200
    own = f"localhost:{port}"
    assert ask(server, body=asked(), Host=own, Origin=f"http://{own}")[0] == 200
    assert raw(server, b"POST /draw HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 403")


def test_bodies_have_a_length_and_not_too_much_of_it(server):
    assert ask(server, body=b" " * (64 * 1024 + 1))[0] == 413
    assert ask(server, body=b" " * 1_000_000)[0] == 413
    head = f"POST /draw HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n".encode()
    for length, status in ((b"9" * 30, b"413"), (b"-1", b"411"), (b"ten", b"411"), (b"9", b"400")):
        reply = raw(server, head + b"Content-Length: " + length + b"\r\n\r\n{}")
        assert reply.startswith(b"HTTP/1.1 " + status), (length, reply)
    assert raw(server, head + b"\r\n").startswith(b"HTTP/1.1 411")
    chunked = b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    assert raw(server, head + chunked).startswith(b"HTTP/1.1 411")


def test_what_is_no_http_is_refused_without_a_word_of_ours(server):
    for junk in (b"\0\xff\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                 b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
                 b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n"):  # fmt: skip
        reply = raw(server, junk)
        assert b"Traceback" not in reply and b"200" not in reply[:20]
    assert ask(server, body=asked())[0] == 200


def test_clients_that_hang_up_are_survived(server, capfd):
    body = json.dumps(asked(seeds=list(range(9)))).encode()
    head = f"POST /draw HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\nContent-Length: "
    for part in (b"", b"POST", head.encode() + b"9\r\n\r\n", head.encode() + str(len(body)).encode()
                 + b"\r\n\r\n" + body):  # fmt: skip
        connection = socket.create_connection(("127.0.0.1", server.server_port))
        connection.sendall(part)
        reset = b"\1\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        connection.close()
    assert ask(server, body=asked())[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_the_page_stands_alone_and_is_framed_by_nobody(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", "/")
    reply = connection.getresponse()
    text = reply.read().decode()
    policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "http://" not in text and "https://" not in text and "innerHTML" not in text
    connection.request("GET", "/models")  # the same connection goes on
    assert connection.getresponse().status == 200
    connection.close()


def test_weights_that_are_not_there_are_told(server):
    with pytest.raises(UserError, match="there is no file nowhere.pth"):
        demo.Server(demo.DemoConfig("nowhere.pth", device="cpu"))


def test_a_port_in_use_is_told(server):
    with pytest.raises(UserError, match="--port .* leave it out for a free one"):
        demo.Server(demo.DemoConfig("weights.pth", port=server.server_port, device="cpu"))
    with pytest.raises(UserError, match="at most 65535"):
        demo.DemoConfig(port=65_536)


def start(folder: Path) -> tuple[subprocess.Popen, str]:
    """The script itself, with the shipped weights, and its address."""
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--no-browser"]
    process = subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline().startswith("weights: ")
    return process, process.stdout.readline().split()[0]


@pytest.mark.slow
def test_ctrl_c_ends_it_quietly(tmp_path):
    process, address = start(tmp_path)
    assert address.startswith("http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and not errors


# In a browser


@pytest.fixture
def browser(tmp_path):
    """Chromium without a window, which saves to a temporary folder; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver)
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()


@pytest.mark.slow
def test_the_page_follows_typing_clicks_and_keys(server, browser, tmp_path):
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    def find(css: str):
        return browser.find_element(By.CSS_SELECTOR, css)

    def wait(script: str) -> object:
        """Until a script gives something true."""
        end = time.monotonic() + 20
        while not (found := browser.execute_script(f"return {script}")):
            assert time.monotonic() < end, script
            time.sleep(0.02)
        return found

    def drawn() -> list[str]:
        """All nine pictures, when none is out of date any more."""
        wait("shown === number && pictures.every((p) => p?.number === number)")
        return browser.execute_script("return pictures.map((p) => p.png)")

    def press(*keys: str) -> None:
        ActionChains(browser).send_keys(*keys).perform()

    browser.get(f"http://127.0.0.1:{server.server_port}/")
    before = drawn()
    assert len(set(before)) > 1
    press("a red cirkle")  # the prompt has the focus
    after = drawn()
    assert before != after
    assert find("#prompt").get_attribute("value") == "a red cirkle"

    # Unknown words are underlined, and one click mends them.
    wait("document.querySelector('#copy u')?.textContent === 'cirkle'")
    find("#hints button").click()
    assert find("#prompt").get_attribute("value") == "a red circle"
    assert drawn() != after

    # A word of the vocabulary is appended.
    words = browser.find_elements(By.CSS_SELECTOR, "#vocabulary button")
    words[-1].click()
    assert find("#prompt").get_attribute("value") == f"a red circle {words[-1].text}"
    drawn()

    # Where a word acted, and what a place looked at.
    find("#caption button").click()
    wait("document.querySelector('#map.on')")
    assert find("#caption button").get_attribute("aria-pressed") == "true"
    find("#picture").click()
    colours = "[...document.querySelectorAll('#caption button')].map("
    colours += "(b) => getComputedStyle(b).backgroundColor)"
    wait(f"new Set({colours}).size > 1")
    assert find("#place").is_displayed()
    left = find("#place").value_of_css_property("left")
    press(Keys.ARROW_RIGHT)
    wait(f"getComputedStyle(document.querySelector('#place')).left !== '{left}'")
    press(Keys.ESCAPE)
    assert not find("#place").is_displayed()

    # The slider, the switch, and other seeds, by keys alone.
    before = drawn()
    browser.execute_script("document.querySelector('#temperature').focus()")
    press(Keys.HOME)
    assert drawn() != before and find("#warmth").text == "0.00"
    browser.execute_script("document.querySelector('#typed').focus()")
    press(Keys.SPACE)
    drawn()
    typed = browser.execute_script("return pictures[0].caption")
    assert typed == find("#prompt").get_attribute("value")
    large = find("#large").get_attribute("src")

    # What is saved is the picture that is seen.
    find("#save").click()
    name = browser.execute_script("return pictures[0].file")
    end = time.monotonic() + 20
    while not (tmp_path / name).exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert large.endswith(base64.b64encode((tmp_path / name).read_bytes()).decode())
    assert Image.open(tmp_path / name).text["caption"] == typed

    # The other end of the slider, and another seed.
    browser.execute_script("document.querySelector('#temperature').focus()")
    press(Keys.END)
    drawn()
    browser.execute_script("document.querySelector('#seeds [aria-checked=\"true\"]').focus()")
    press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    wait("state.chosen === 4")
    assert find("#large").get_attribute("src") != large
    find("#after").click()
    drawn()
    assert browser.execute_script("return pictures.map((p) => p.seed)") == list(range(9, 18))

    # Another model, and the other theme.
    from selenium.webdriver.support.select import Select

    before = browser.execute_script("return number")
    Select(find("#model")).select_by_visible_text("results/flags")
    wait(f"number > {before}")
    drawn()
    scheme = "return getComputedStyle(document.body).backgroundColor"
    colour = browser.execute_script(scheme)
    find("#theme").click()
    assert browser.execute_script(scheme) != colour

    # Every picture and control has a name, and nothing went wrong.
    named = "[...document.querySelectorAll('img')].every((i) => i.alt)"
    assert browser.execute_script(f"return {named}")
    for element in browser.find_elements(By.CSS_SELECTOR, "button, input, select, textarea"):
        if element.is_displayed():
            assert element.accessible_name, element.get_attribute("outerHTML")
    assert find("#said").get_attribute("textContent")
    assert browser.get_log("browser") == []
