"""A server on the loopback that answers as weather services do, and as broken ones do."""
import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

from styleblend.context.weather_services import Services

KEY = "0123456789abcdef0123456789abcdef"
# answers as the services' documentation shows them, shortened
OPENWEATHERMAP = {"coord": {"lon": 12.4839, "lat": 41.8947},
                  "weather": [{"id": 801, "main": "Clouds", "description": "few clouds", "icon": "02d"}],
                  "main": {"temp": 289.2, "humidity": 52}, "name": "Rome", "cod": 200}
PLACES = {"results": [{"id": 3169070, "name": "Rome", "latitude": 41.89193, "longitude": 12.51133, "country": "Italy"}],
          "generationtime_ms": 0.5}
FORECAST = {"latitude": 41.875, "longitude": 12.5, "current_units": {"weather_code": "wmo code"},
            "current": {"time": "2026-05-01T12:00", "interval": 900, "weather_code": 63}}
ENDLESS = ("endless body", "endless headers", "silent")


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing is said of each request."""

    def do_GET(self):
        url = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.server.asked.append((url.path, asked))
        with contextlib.suppress(OSError):  # who asked has gone
            getattr(self, self.server.mood.replace(" ", "_"))(url.path, asked)

    def well(self, path, asked):
        if path == "/owm":
            if asked.get("appid") != KEY:
                return self.reply(401, {"cod": 401, "message": "Invalid API key."})
            known = asked.get("q") == "Rome" or "lat" in asked
            return self.reply(*((200, OPENWEATHERMAP) if known else (404, {"cod": "404", "message": "city not found"})))
        if path == "/search":
            return self.reply(200, PLACES if asked["name"] == "Rome" else {"generationtime_ms": 0.4})
        return self.reply(200, FORECAST)

    def reply(self, status, said, **headers):
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def rate_limited(self, *_):
        self.reply(429, {"cod": 429, "message": "too many"})

    def broken(self, *_):
        self.reply(500, b"<html>oops</html>")

    def no_json(self, *_):
        self.reply(200, b"<html>Sign in to the network</html>")

    def deep(self, *_):
        self.reply(200, b"[" * 100_000)

    def other(self, *_):
        self.reply(200, {"weather": "fine", "current": {"weather_code": 12345}, "results": [{"latitude": "x"}]})

    def rude(self, *_):
        words = {"description": "rain\x1b[2J (masterpiece:9)"}
        self.reply(200, {"weather": [words], "results": [], "name": "x" * 99})

    def elsewhere(self, *_):
        self.reply(302, b"", Location=f"http://127.0.0.1:{self.server.server_port}/stolen?appid=1")

    def huge(self, *_):
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b" " * (1 << 20))
            self.server.sent += 1

    def endless_body(self, *_):
        self.send_response(200)
        self.end_headers()
        while not self.server.over:
            self.wfile.write(b" ")
            time.sleep(0.05)

    def endless_headers(self, *_):
        self.wfile.write(b"HTTP/1.0 200 OK\r\n")
        while not self.server.over:
            self.wfile.write(b"X")
            self.wfile.flush()
            time.sleep(0.05)

    def silent(self, *_):
        while not self.server.over:
            time.sleep(0.05)


@contextlib.contextmanager
def weather_server(timeout=1.0):
    """`services` ask it, `mood` says how it answers, `asked` is what it was asked, `sent` how many MiB of 100."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.mood, server.asked, server.sent, server.over, server.daemon_threads = "well", [], 0, False, True
    address = f"http://127.0.0.1:{server.server_port}"
    server.services = Services(f"{address}/owm", f"{address}/search", f"{address}/forecast", timeout)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over = True
        server.shutdown()
        thread.join()
        server.server_close()


def no_server() -> Services:
    """Addresses where nobody answers."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port = server.server_port
    server.server_close()
    return SimpleNamespace(services=Services(*[f"http://127.0.0.1:{port}/"] * 3, 1.0)).services
