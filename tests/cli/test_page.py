"""`styleblend page`: who else could reach it, what it needs, and a port that is taken; and what the doctor says."""
import importlib.util
import socket
import sys

import pytest

from styleblend.cli import main
from styleblend.cli.page import refuse_unfit
from styleblend.machine import doctor


@pytest.mark.parametrize("options, words", [
    (["--host", "0.0.0.0"], "give a --password"), (["--host", "::", "--password", "short"], "shorter than 8"),
    (["--port", "0"], "number from 1 to 65535"), (["--config", "none"], "does not exist")])
def test_what_cannot_be_served_is_refused(options, words, capsys):
    assert main(["page", *options]) == 2
    assert words in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main(["page", "--port", str(other.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err


def test_a_password_opens_the_network():
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        port = probe.getsockname()[1]
    refuse_unfit("0.0.0.0", port, "long enough")


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gradio" else found(name))
    assert main(["page", "--port", "7999"]) == 2
    said = capsys.readouterr().err
    assert "3.10 or newer" in said if sys.version_info < (3, 10) else 'pip install "styleblend-jittor[page]"' in said


@pytest.mark.skipif(sys.version_info < (3, 10), reason="says that Python is too old")
@pytest.mark.parametrize("version, status", [(None, "info"), ("4.44.1", "info"), ("6.31.0", "ok")])
def test_the_doctor_knows_the_extra(monkeypatch, version, status):
    monkeypatch.setattr(doctor.environment, "installed_version", lambda name: version)
    line = doctor.page_line()
    assert line.status == status and (version or "missing") in line.found
