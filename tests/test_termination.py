"""Programs that are told to end, whatever they are doing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

LIMIT = 30.0
STUCK = """
import ctypes
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)
"""
"""After it, a second lock never returns, whatever signal comes."""
LOCK = "libc.pthread_mutex_lock(mutex)\n"


@contextmanager
def program(text: str) -> Iterator[subprocess.Popen[str]]:
    """A program with a ``Termination`` that has said that it is there."""
    begin = "from kaito.termination import Termination, leave\nimport sys, time\ntermination = Termination(7)\n"
    with subprocess.Popen(
        [sys.executable, "-c", begin + text], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "there\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_has_nothing_to_finish_ends_at_once(number: signal.Signals) -> None:
    with program(STUCK + "print('there', flush=True)\n" + LOCK) as process:
        process.send_signal(number)
        assert process.wait(LIMIT) == 7


def test_what_is_asked_ends_as_it_likes() -> None:
    text = """
import threading
asked = threading.Event()
termination.ask(asked.set, within=3600)
print('there', flush=True)
asked.wait()
print('finished')
sys.exit(3)
"""
    with program(text) as process:
        process.terminate()
        assert process.communicate(timeout=LIMIT)[0] == "finished\n"
        assert process.returncode == 3


def test_who_does_not_end_in_time_is_ended() -> None:
    text = "termination.ask(lambda: print('asked'), within=0.1)\nprint('there', flush=True)\n" + LOCK
    with program(STUCK + text) as process:
        process.terminate()
        assert process.communicate(timeout=LIMIT)[0] == "asked\n"
        assert process.returncode == 7


def test_the_second_signal_does_not_wait() -> None:
    text = "termination.ask(lambda: print('asked', flush=True), within=3600)\nprint('there', flush=True)\n" + LOCK
    with program(STUCK + text) as process:
        assert process.stdout
        process.terminate()
        assert process.stdout.readline() == "asked\n"
        process.terminate()
        assert process.wait(LIMIT) == 7


def test_an_interrupted_program_leaves_its_contexts() -> None:
    text = """
termination.interrupt(within=3600)
try:
    print('there', flush=True)
    time.sleep(3600)
finally:
    print('left')
"""
    with program(text) as process:
        process.terminate()
        assert process.communicate(timeout=LIMIT)[0] == "left\n"
        assert process.returncode == 7


def test_a_thread_that_an_interrupted_program_would_wait_for_is_not_waited_for() -> None:
    text = """
import threading
termination.interrupt(within=0.1)
threading.Thread(target=time.sleep, args=(3600,)).start()
print('there', flush=True)
time.sleep(3600)
"""
    with program(text) as process:
        process.terminate()
        assert process.wait(LIMIT) == 7


def test_who_was_asked_in_the_middle_of_something_does_not_go_on_to_the_next() -> None:
    text = """
import threading
asked = threading.Event()
termination.ask(asked.set, within=3600)
print('there', flush=True)
asked.wait()
termination.nothing_to_finish()
print('went on')
"""
    with program(text) as process:
        process.terminate()
        assert process.communicate(timeout=LIMIT)[0] == ""
        assert process.returncode == 7
