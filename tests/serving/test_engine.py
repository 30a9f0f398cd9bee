"""Claims of lessonlib.serving.engine and lessonlib.serving.server that need no vLLM: what is refused before a server is started, and
what happens to one that does not start. The others are in tests/serving."""

import socket
import stat
import sys
import time

import psutil
import pytest
from tiny_models import ALL, filled, tiny_model

from lessonlib.lora import add_lora, save_lora
from lessonlib.serving import engine as room
from lessonlib.serving import server
from lessonlib.serving.engine import Engine, EngineAbsent, EngineError, serving_python


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return save_lora(filled(add_lora(tiny_model(), ALL, r=4)), tmp_path_factory.mktemp("adapters") / "a")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A program in vLLM's place: give its Python source."""

    def put(source: str):
        program = tmp_path / "python"
        program.write_text(f"#!{sys.executable}\n{source}")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("LESSONLIB_SERVE_PYTHON", str(program))

    return put


# --- where vLLM is ---------------------------------------------------------------------------------------------------


def test_the_variable_goes_before_the_environment_in_the_course(monkeypatch, tmp_path):
    python = tmp_path / ".venv-serve" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("LESSONLIB_SERVE_PYTHON", raising=False)
    monkeypatch.setattr(server, "__file__", str(tmp_path / "elsewhere" / "lessonlib" / "server.py"))
    assert serving_python() == python
    monkeypatch.setenv("LESSONLIB_SERVE_PYTHON", sys.executable)
    assert str(serving_python()) == sys.executable


def test_without_vllm_the_command_that_brings_it_is_named(tiny_directory, monkeypatch):
    monkeypatch.setenv("LESSONLIB_SERVE_PYTHON", "/nowhere/python")
    assert serving_python() is None
    with pytest.raises(EngineAbsent, match="make serve-env"):
        Engine(tiny_directory).start()


# --- refused before anything is started ------------------------------------------------------------------------------


def test_a_bad_name_is_refused_where_it_is_given(tiny_directory, adapter):
    with pytest.raises(EngineError, match=r"'\.\./a' cannot be an adapter's name"):
        Engine(tiny_directory, {"../a": adapter})


def test_adapters_from_elsewhere_are_refused(tiny_directory, adapter, tmp_path):
    with pytest.raises(EngineError, match="not below"):
        Engine(tiny_directory, {"a": adapter}, adapter_directory=tmp_path)
    Engine(tiny_directory, {"a": adapter}, adapter_directory=adapter.parent)


def test_an_adapter_of_too_large_a_rank_is_refused(tiny_directory, adapter):
    with pytest.raises(EngineError, match="1 to 2"):
        Engine(tiny_directory, {"a": adapter}, max_lora_rank=2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_lora_rank": 513}, "513"),
        ({"max_lora_rank": 0}, "0"),
        ({"max_loras": 4, "max_cpu_loras": 2}, "2.*4"),
    ],
)
def test_settings_that_vllm_would_die_of_are_refused(tiny_directory, settings, said):
    with pytest.raises(EngineError, match=said):
        Engine(tiny_directory, **settings)


def test_the_rank_limit_is_rounded_up_to_one_that_vllm_knows(tiny_directory):
    assert Engine(tiny_directory, max_lora_rank=4).settings["max-lora-rank"] == 8


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(EngineError, match=r"no config\.json"):
        Engine(tmp_path)


def test_too_little_memory_is_refused_with_both_figures(tiny_directory, stand_in, monkeypatch):
    stand_in("raise SystemExit('it was started')")
    monkeypatch.setattr(room.hardware, "memory_gb", lambda device: 1.5)
    with pytest.raises(EngineError, match=r"1\.5 GB of memory are free and vLLM needs 4\.0"):
        Engine(tiny_directory).start()


def test_a_port_in_use_is_refused_with_its_number(tiny_directory, stand_in):
    stand_in("raise SystemExit('it was started')")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port} of 127.0.0.1 is in use"):
            Engine(tiny_directory, port=port).start()


def test_requests_to_an_engine_that_was_not_started_say_so(tiny_directory):
    with pytest.raises(EngineError, match=r"call start\(\)"):
        Engine(tiny_directory).complete("base", "x")


# --- servers that do not start ---------------------------------------------------------------------------------------


def test_the_end_of_the_log_says_why_a_server_died(tiny_directory, stand_in):
    stand_in("print('line one'); raise SystemExit('RuntimeError: no such processor')")
    engine = Engine(tiny_directory)
    with pytest.raises(EngineError, match=r"ended while it started.*(?s:.*)no such processor"):
        engine.start()
    assert not engine.alive and "line one" in engine.log.read_text()


def test_a_server_that_never_answers_is_given_up_and_ended(tiny_directory, stand_in):
    stand_in("import os, time; print(os.getpid(), flush=True); time.sleep(300)")
    engine = Engine(tiny_directory, startup_seconds=3)
    began = time.monotonic()
    with pytest.raises(EngineError, match="not ready within 3 s: give startup_seconds more"):
        engine.start()
    assert time.monotonic() - began < 20
    assert not psutil.pid_exists(int(engine.log.read_text()))


def test_the_log_and_the_copies_go_with_the_engine(tiny_directory):
    engine = Engine(tiny_directory)
    directory = engine.log.parent
    assert directory.exists()
    del engine
    assert not directory.exists()


def test_what_is_set_for_this_python_does_not_reach_the_servers(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/here")
    given = server.environment()
    assert "PYTHONPATH" not in given
    assert given["VLLM_HOST_IP"] == "127.0.0.1" and given["HF_HUB_OFFLINE"] == "1"
