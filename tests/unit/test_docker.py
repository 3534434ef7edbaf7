"""The Dockerfile, as far as it can be held without Docker: its sources, user, health check and commands."""

import fnmatch
import json
import re
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

import app
from ui.server import app_options

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def steps():
    """The instructions in their order: (name, the rest)."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def of(steps, name):
    return [rest for step, rest in steps if step == name]


def test_every_source_exists_and_is_not_ignored(steps):
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    sources = [source for rest in of(steps, "COPY") for source in rest.split()[:-1]]
    assert {"sama", "ui", "assets", "app.py", "requirements.txt"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        kept = True
        for rule in rules:
            if fnmatch.fnmatch(source, rule.removeprefix("!")):
                kept = rule.startswith("!")
        assert kept, f".dockerignore leaves out {source}"
    assert rules[0] == "*", "what is not named stays out: history, environments, data"


def test_the_app_does_not_run_as_root(steps):
    names = [name for name, _ in steps]
    assert of(steps, "USER") == ["sama"] and "--uid 1000 sama" in " ".join(of(steps, "RUN"))
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    folders = json.loads(of(steps, "VOLUME")[0])
    made = next(rest for rest in of(steps, "RUN") if "install -d -o sama" in rest)
    assert all(folder in made for folder in folders) and f"HF_HOME={folders[0]}" in of(steps, "ENV")[0]


def test_what_is_installed_is_what_the_project_requires(steps):
    (pip,) = (rest for rest in of(steps, "RUN") if "pip install" in rest)
    assert re.search(r"pip install --no-cache-dir -r requirements\.txt$", pip)
    (spec,) = re.findall(r"\$\((sed .*?requirements\.txt)\)", pip)
    done = subprocess.run(["sh", "-c", spec], cwd=ROOT, capture_output=True, text=True, check=True)
    (wanted,) = (
        line.split()[0] for line in (ROOT / "requirements.txt").read_text().splitlines() if line[:6] == "torch>"
    )
    assert done.stdout.strip() == wanted
    names = [name for name, _ in steps]
    before = [rest for name, rest in steps[: names.index("RUN", names.index("COPY"))] if name == "COPY"]
    assert before == ["requirements.txt ./"], "a change of code does not install everything again"


def test_the_command_starts_the_app_where_the_health_check_looks(steps):
    command = json.loads(of(steps, "CMD")[0])
    settings = app.parse(command[2:])
    assert command[:2] == ["python", "app.py"] and settings.address == "0.0.0.0"
    assert [str(settings.port)] == of(steps, "EXPOSE")
    (check,) = of(steps, "HEALTHCHECK")
    assert f"127.0.0.1:{settings.port}/" in check
    path = re.search(r":\d+(/\w+)'", check)[1]
    assert path in [route.path for route in app_options(None, SimpleNamespace(settings=settings))["routes"]]


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_tells_an_app_that_stops(steps, status, code):
    asked = []

    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        (check,) = of(steps, "HEALTHCHECK")
        command = json.loads(check[check.index("CMD") + 3 :])
        program = command[2].replace(":7860/", f":{server.server_port}/")
        done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, timeout=60)
    finally:
        server.shutdown()
        server.server_close()
    assert (done.returncode, asked) == (code, ["/healthz"]), shlex.join(command)
