"""The end of a local Ray: nothing of it is left running."""

from __future__ import annotations

import subprocess
import sys

import psutil

SCRIPT = """
import atexit, os, time
import ray
from metasearch.execution import start_ray
from metasearch.execution.cluster import worker_environment

session = start_ray(workers=1, environment=worker_environment(threads=1))

@ray.remote
class Worker:
    def hang(self):
        atexit.register(time.sleep, 600)
        return os.getpid()

worker = Worker.remote()
pid = ray.get(worker.hang.remote())
assert pid != os.getpid()
del worker  # the last reference: the worker begins to end
time.sleep(1)
session.close()
print(pid)
"""


def test_a_worker_that_hangs_does_not_outlive_the_session() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    worker = int(done.stdout.split()[-1])
    left = psutil.pid_exists(worker)
    if left:
        psutil.Process(worker).kill()
    assert not left
