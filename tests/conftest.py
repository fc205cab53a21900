"""What all tests share: one local Ray a session, since starting it takes seconds."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A local Ray with four CPUs and one (logical) GPU; executors made during the session use it."""
    from metasearch.execution import start_ray
    from metasearch.execution.cluster import worker_environment

    session = start_ray(workers=4, gpus=1, environment=worker_environment(threads=1))
    yield
    session.close()
