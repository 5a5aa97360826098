"""A page on your own machine whose picture follows what you type, key by key.

    python examples/demo.py                                   prints its address, opens the browser
    python examples/demo.py --model results/scenes --no-browser --port 8000

Nine seeds at once, and beside them the caption that the prompt was completed to. Click a word of it
to see where it acted, or a place in the picture to see which words it looked at. A saved PNG keeps
what it was drawn from, as those of generate.py do. The page is demo.html, beside this file; nothing
is fetched from elsewhere, and no other machine can reach it.
"""

import base64
import io
import json
import os
import sys
import threading
import time
import traceback
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

import checkpoint
from completion import is_word
from config import RESULTS, SHIPPED_WEIGHTS, UserError, check_values, choose_device, run, setting
from generate import Drawing, file_name, png_info
from model import TextToImageModel, to_uint8
from tokenizer import SPECIAL_TOKENS, split_words

ROOT = SHIPPED_WEIGHTS.parent.parent
PAGE = Path(__file__).with_name("demo.html")
MAX_BODY = 64 * 1024  # bytes of a request
MAX_PROMPT = 1_000  # characters
MAX_SEEDS = 9  # of one request
MAX_TEMPERATURE = 1.5
MAX_WORDS = 240  # of the vocabulary that the page offers
MAX_UNKNOWN = 8  # words whose nearest one is looked for
MAX_MODELS = 2  # kept in memory
MAX_PAGES = 64  # whose last request is remembered; then all are forgotten
SECONDS = 30  # that a client may be silent in
# The page is one file, and may load nothing, be framed by nobody, and ask this server alone.
POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
          "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
          "frame-ancestors 'none'")  # fmt: skip


@dataclass(frozen=True)
class DemoConfig:
    """Which weights the page begins with, and where it is."""

    model: str = setting("", "weights, checkpoint or run; none: the newest run, else the shipped")
    port: int = setting(0, "of 127.0.0.1; 0: a free one")
    browser: bool = setting(True, "open the page in a browser")
    device: str = setting("auto", "where to draw: auto, cpu, cuda, cuda:1, mps")

    def __post_init__(self) -> None:
        check_values(self)
        if self.port > 65_535:
            raise UserError(f"--port is at most 65535, not {self.port}")


class Refused(Exception):
    """What a client is told instead of what it asked for: a status, and one sentence."""


class Asked(NamedTuple):
    """The values of a request; those left out are these."""

    model: str = ""
    prompt: str = ""
    seeds: tuple[int, ...] = (0,)
    temperature: float = 1.0
    as_typed: bool = False
    page: str = ""  # a name that each open page has of its own
    number: int = 0  # grows with each change of the page: a lower one is overtaken


def read_values(body: bytes) -> Asked:
    """Raises Refused where a request is not as the page writes them."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the request is no JSON") from error
    if not isinstance(values, dict) or set(values) - set(Asked._fields):
        raise Refused(400, f"the request is no JSON object of {', '.join(Asked._fields)}")
    if isinstance(values.get("seeds"), list):
        values["seeds"] = tuple(values["seeds"])
    for name, default in Asked._field_defaults.items():
        kinds = (int, float) if name == "temperature" else (type(default),)
        if type(values.get(name, default)) not in kinds:
            raise Refused(400, f"{name} is of the wrong type")
    asked = Asked(**values)
    seeds = [s for s in asked.seeds if type(s) is int and 0 <= s < 2**32]
    for right, told in (
        (len(asked.prompt) <= MAX_PROMPT, f"a prompt has at most {MAX_PROMPT:,} characters"),
        (1 <= len(asked.seeds) == len(seeds) <= MAX_SEEDS,
         f"seeds are 1 to {MAX_SEEDS} whole numbers from 0 to 4294967295"),
        (0 <= asked.temperature <= MAX_TEMPERATURE,  # nan is not
         f"temperature is a number from 0 to {MAX_TEMPERATURE}"),
        (len(asked.page) <= 64 and 0 <= asked.number < 2**53, "page or number is out of range"),
    ):  # fmt: skip
        if not right:
            raise Refused(400, told)
    return asked._replace(prompt=asked.prompt.encode("utf-8", "replace").decode())


def png(pixels: np.ndarray, texts: dict[str, str]) -> str:
    """(H, W, 3) uint8 -> PNG with these texts, as generate.save_image writes it; in base64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=png_info(texts))
    return base64.b64encode(file.getvalue()).decode()


class Studio:
    """Draws for all pages: one request at a time, and none that its page has overtaken."""

    def __init__(self, config: DemoConfig):
        self.chosen = checkpoint.choose_weights(config.model)[0]
        self.device = choose_device(config.device)
        self.lock = threading.Lock()
        self.newest: dict[str, int] = {}  # page -> number of its last request
        self.loaded: dict[Path, TextToImageModel] = {}
        self.marks: dict[str, str] = {}  # fingerprints of those, by name

    def files(self) -> dict[str, Path]:
        """All that can be chosen, by the name that the page shows; what it begins with is first."""
        runs = sorted(RESULTS.glob("*/checkpoint.pth"))
        shipped = [p for p in sorted(SHIPPED_WEIGHTS.parent.glob("*.pth")) if len(p.suffixes) == 1]
        names = {}
        for path in (self.chosen, SHIPPED_WEIGHTS, *runs, *shipped):
            shown = path.parent if path.name == "checkpoint.pth" else path
            inside = shown.is_relative_to(ROOT)
            names.setdefault(str(shown.relative_to(ROOT) if inside else shown), path)
        return {n: path for n, path in names.items() if path == self.chosen or path.exists()}

    def model(self, name: str, anew: bool = False) -> TextToImageModel:
        """A model of the list, never another file; anew: as the file is now."""
        if not (path := self.files().get(name)):
            raise Refused(400, "no such model is in the list")
        model = None if anew else self.loaded.get(path)
        if model is None:
            model = checkpoint.load_model(path).to(self.device)
            self.marks[name] = checkpoint.fingerprint(model)
            self.loaded = dict([*self.loaded.items(), (path, model)][-MAX_MODELS:])
        return model

    def look_whether_overtaken(self, asked: Asked) -> None:
        if self.newest.get(asked.page, 0) > asked.number:
            raise Refused(409, "overtaken by a later request of the same page")

    @contextmanager
    def turn(self, asked: Asked) -> Iterator[None]:
        """Wait for it, unless a later request of the page comes first."""
        if len(self.newest) > MAX_PAGES:
            self.newest = {}
        self.newest[asked.page] = max(asked.number, self.newest.get(asked.page, 0))
        with self.lock:
            self.look_whether_overtaken(asked)
            yield

    # What the page asks for

    def models(self, _: Asked) -> dict:
        return {"models": list(self.files())}

    def open(self, asked: Asked) -> dict:
        """What the page needs to know of a model."""
        with self.lock:
            model = self.model(asked.model, anew=True)
        words = filter(is_word, model.tokenizer.vocabulary[len(SPECIAL_TOKENS) :])
        return {"words": list(words)[:MAX_WORDS], "completes": model.completer is not None}

    def hints(self, asked: Asked) -> dict:
        """Words of the prompt that the model does not know, with the nearest known one."""
        with self.turn(asked):
            model = self.model(asked.model)
        known, longest, note = model.tokenizer, model.config.max_tokens, ""
        unknown = known.unknown_words(asked.prompt)
        if len(known.encode(asked.prompt)) > longest:
            note = f"Only the first {longest - 1} words count."
        elif unknown and not set(split_words(asked.prompt)) & known.ids.keys():
            note = "No word of this is known, so any picture is drawn."
        nearest = [[word, known.nearest_word(word)] for word in unknown[:MAX_UNKNOWN]]
        return {"unknown": nearest, "note": note}

    def draw(self, asked: Asked) -> dict:
        """A picture for each seed, the caption it was drawn from, and what took how long."""
        times = [time.perf_counter()]
        with self.turn(asked):
            times.append(time.perf_counter())
            model, seeds, warmth = self.model(asked.model), asked.seeds, asked.temperature
            mark = self.marks[asked.model]
            captions = [asked.prompt] * len(seeds)
            if not asked.as_typed:
                captions = model.complete(captions, seeds, warmth)
            times.append(time.perf_counter())
            self.look_whether_overtaken(asked)
            images = to_uint8(model.draw(captions, seeds, warmth))
            images = images.permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, 3)
            times.append(time.perf_counter())
        how = "-as-typed" * asked.as_typed + (f"-temperature{warmth:g}" if warmth != 1 else "")
        pictures = []
        for seed, caption, pixels in zip(seeds, captions, images, strict=True):
            texts = Drawing(asked.prompt, seed, warmth, caption, mark).texts()
            pictures.append({"seed": seed, "caption": caption, "words": split_words(caption),
                             "file": file_name(asked.prompt, seed, how),
                             "png": png(pixels, texts)})  # fmt: skip
        times.append(time.perf_counter())
        took = np.diff(times) * 1000
        names = ("wait", "complete", "draw", "encode")
        return {"pictures": pictures, "ms": dict(zip(names, took.round(2).tolist(), strict=True))}

    def look(self, asked: Asked) -> dict:
        """Where each word of a caption (the prompt, as it stands) acted: maps (L, h, h) in
        thousandths, of all words that count."""
        with self.turn(asked):
            model = self.model(asked.model)
            found = model.look(asked.prompt, asked.seeds[0], asked.temperature)
        return {"maps": (found.maps[1:] * 1000).round().int().tolist()}  # without <start>


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "demo", ""
    disable_nagle_algorithm = True  # else head and body of a reply are 40 ms apart
    timeout = SECONDS
    routes = {"/": "GET", "/models": "GET", "/open": "POST", "/hints": "POST", "/draw": "POST",
              "/look": "POST"}  # fmt: skip

    def answer(self) -> None:
        try:
            self.check()
            if self.path == "/":
                self.reply(200, PAGE.read_bytes(), "text/html; charset=utf-8")
                return
            asked = read_values(self.read_body()) if self.command == "POST" else Asked()
            self.reply(200, getattr(self.server.studio, self.path[1:])(asked))
        except Refused as refused:
            self.send_error(*refused.args)
        except UserError as error:  # of a model's file
            self.send_error(400, str(error))
        except (ConnectionError, TimeoutError):  # the client has hung up
            self.close_connection = True
        except Exception:
            traceback.print_exc()
            self.send_error(500, "the server failed; its terminal says more")

    do_GET = do_POST = answer

    def check(self) -> None:
        """Whether it is our own page that asks, and for something there is. Another site whose name
        leads to 127.0.0.1 (DNS rebinding) tells that name as Host."""
        port = self.server.server_port
        ours = {f"127.0.0.1:{port}", f"localhost:{port}"}
        if len(hosts := self.headers.get_all("Host", [])) != 1 or hosts[0].lower() not in ours:
            raise Refused(403, "this server answers under its own address alone")
        if self.headers.get("Origin", f"http://{hosts[0]}") != f"http://{hosts[0]}":
            raise Refused(403, "this server answers its own page alone")
        if self.path not in self.routes:
            raise Refused(404, "there is nothing here")
        if self.command != self.routes[self.path]:
            raise Refused(405, f"this is asked for by {self.routes[self.path]}")

    def read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise Refused(411, "a request tells its length")
        if len(length) > 9 or int(length) > MAX_BODY:
            if len(length) < 8:
                self.rfile.read(int(length))  # who still sends does not read what we say
            raise Refused(413, f"a request has at most {MAX_BODY:,} bytes")
        return self.rfile.read(int(length))

    def reply(self, status: int, content: Any, kind: str = "application/json") -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": kind, "Content-Length": len(body), "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin",
            "Content-Security-Policy": POLICY,
        }.items():  # fmt: skip
            self.send_header(name, str(value))
        if status == 405:
            self.send_header("Allow", self.routes.get(self.path, "GET, POST"))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """One sentence as JSON, for errors that http.server finds, too. The connection ends, as the
        rest of the request may still be in it."""
        code = 405 if code == 501 else code  # a method that there is no do_... of
        self.close_connection = code != 409
        with suppress(OSError):
            self.reply(code, {"error": message or "the request cannot be understood"})

    def log_message(self, *_: Any) -> None:
        """A line for each key would tell nothing."""


class Server(ThreadingHTTPServer):
    """Serves the page on this machine, and to nobody else."""

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # elsewhere it would take a port in use

    def __init__(self, config: DemoConfig):
        self.studio = Studio(config)
        first = next(iter(self.studio.files()), "")
        self.studio.draw(Asked(first))  # the first picture takes longest
        try:
            super().__init__(("127.0.0.1", config.port), Handler)
        except OSError as error:
            raise UserError(f"--port {config.port} cannot be used ({error.strerror}); leave it out "
                            "for a free one") from error  # fmt: skip

    def server_bind(self) -> None:
        """HTTPServer asks for the name of the machine, which may take seconds without a network."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def main(config: DemoConfig) -> None:
    """Serve until Ctrl-C."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))  # a browser draws, too
    server = Server(config)
    address = f"http://127.0.0.1:{server.server_port}/"
    print(f"weights: {server.studio.chosen}\n{address}  (Ctrl-C ends it)", flush=True)
    if config.browser:  # some browsers return when they are closed
        threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
        server.studio.lock.acquire(timeout=5)  # so that nobody draws while Python ends


if __name__ == "__main__":
    run(main, DemoConfig, __doc__)
