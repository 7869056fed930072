"""The page as an application, without a server around it."""
import pytest

LOCAL = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """The folder of its uploads."""
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture
def open_page(world, uploads):
    """Starts a page of the world's config, and gives a client of it. `worker`: the command of its worker."""
    from starlette.testclient import TestClient

    from styleblend.settings import read_settings
    from styleblend.ui.page import application, prepare_environment
    from styleblend.ui.queue import JobQueue
    opened = []

    def start(password=None, host="127.0.0.1", worker=None):
        prepare_environment(uploads)
        queue = JobQueue(str(world), worker)
        client = TestClient(application(read_settings(world), queue, uploads, host, password), base_url=LOCAL)
        client.__enter__()
        opened.append((client, queue))
        return client

    yield start
    for client, queue in opened:
        client.__exit__(None, None, None)
        queue.close()
