"""Jobs that misbehave, for worker processes to be given."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from kernelwright.tuner import isolation
from kernelwright.tuner.work import Verdict


def hang(seconds=600):
    time.sleep(seconds)


def hang_with_a_child(pid_file):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(pid_file).write_text(str(child.pid))
    time.sleep(600)


def hang_in_stage(doing):
    isolation.stage("quick")
    isolation.stage(doing)
    time.sleep(600)


def stages(count, pause_s):
    for index in range(count):
        isolation.stage(f"part {index}")
        time.sleep(pause_s)
    return count


def stop_itself():
    os.kill(os.getpid(), signal.SIGSTOP)


def segfault():
    ctypes.string_at(0)


def leave(status):
    os._exit(status)


def print_garbage():
    print("KWJ1 garbage" * 1000, flush=True)
    sys.stderr.write("more garbage\n")
    os.write(1, b"\x80\x04\x95 not an answer")
    return "an answer"


def send_garbage(data):
    assert isolation._to_parent is not None
    isolation._to_parent.sendall(data)
    time.sleep(600)


class Unpicklable:
    def __reduce__(self):
        raise ValueError("never")


class BadError(Exception):
    """Pickles, and does not come back."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def return_what_cannot_be_sent():
    return Unpicklable()


def raise_what_cannot_be_sent():
    raise BadError("odd", "error")


def slowly(pause_s):
    time.sleep(pause_s)
    return "loaded"


class SlowToLoad:
    """Takes its time to be unpickled, as what imports torch does."""

    def __init__(self, pause_s):
        self.pause_s = pause_s

    def __reduce__(self):
        return slowly, (self.pause_s,)


def takes(value):
    return value


def require_file(path):
    if not Path(path).exists():
        raise RuntimeError("no CUDA-capable device is detected")


class Misbehaving:
    """A verifier in front of a real one: what a variant's name is mapped to happens instead."""

    def __init__(self, inner, deeds):
        self.inner, self.deeds = inner, deeds

    def verify(self, compiled):
        deed = self.deeds.get(compiled.variant.name)
        if deed == "hang":
            hang()
        if deed == "segfault":
            segfault()
        if deed == "exit":
            leave(3)
        if deed == "garbage":
            send_garbage(b"!" * 64)
        return self.inner.verify(compiled) if self.inner else Verdict(status="ok")
