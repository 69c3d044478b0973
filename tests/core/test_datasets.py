import dataclasses
import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agentbench import datasets as data
from agentbench.datasets import (
    Dataset,
    ImportReport,
    Source,
    dataset,
    dataset_dir,
    download,
    fetch_data,
    import_data,
    installed,
    verify_data,
)
from agentbench.errors import ContractError, CorruptData, MissingData, UnknownName, UsageError

BODY = bytes(range(256)) * 4096  # 1 MiB
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Server(ThreadingHTTPServer):
    """Serves BODY; `cut` breaks each of the first transfers after so many bytes, `ranges` honours Range."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cut, self.ranges, self.status, self.requests = [], True, 200, []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/games.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        if self.server.status != 200:
            return self.send_error(self.server.status)
        if start >= len(BODY):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        stop = start + self.server.cut.pop(0) if self.server.cut else len(BODY)
        self.wfile.write(BODY[start:stop])
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=functools.partial(made.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.cut = [300_000, 100_000]
    seen = []
    source = Source(server.url, SHA, "games.zip")
    path = download(source, tmp_path, progress=lambda *state: seen.append(state), pause_s=0.0)
    assert path.read_bytes() == BODY
    assert server.requests == [None, "bytes=300000-", "bytes=400000-"]
    assert seen[-1] == (len(BODY), len(BODY), "games.zip")
    assert not (tmp_path / "games.zip.part").exists()


def test_what_arrived_is_kept_for_the_next_call(server, tmp_path):
    server.cut = [250_000]
    source = Source(server.url, SHA, "games.zip")
    with pytest.raises(UsageError, match=r"cannot download .*games\.zip\.part, run the same command again"):
        download(source, tmp_path, attempts=1)
    assert (tmp_path / "games.zip.part").stat().st_size == 250_000
    assert download(source, tmp_path).read_bytes() == BODY
    assert server.requests == [None, "bytes=250000-"]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    (tmp_path / "games.zip.part").write_bytes(b"x" * 1000)
    assert download(Source(server.url, SHA, "games.zip"), tmp_path).read_bytes() == BODY


def test_a_part_that_is_already_complete_is_only_checked(server, tmp_path):
    (tmp_path / "games.zip.part").write_bytes(BODY)
    assert download(Source(server.url, SHA, "games.zip"), tmp_path).read_bytes() == BODY
    assert server.requests == [f"bytes={len(BODY)}-"]


def test_a_finished_file_is_not_downloaded_again(server, tmp_path):
    (tmp_path / "games.zip").write_bytes(BODY)
    download(Source(server.url, SHA, "games.zip"), tmp_path)
    assert server.requests == []


def test_a_wrong_checksum_is_refused_by_name_and_nothing_is_left(server, tmp_path):
    with pytest.raises(CorruptData, match=rf"games\.zip .* is corrupt: sha256 {SHA}, expected 0000"):
        download(Source(server.url, "0" * 64, "games.zip"), tmp_path)
    assert list(tmp_path.glob("games*")) == []


def test_an_error_of_the_server_is_said_in_one_line(server, tmp_path):
    server.status = 404
    with pytest.raises(UsageError, match="answered 404"):
        download(Source(server.url, SHA, "games.zip"), tmp_path)


def test_no_server_at_all_is_said_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="cannot download"):
        download(Source("http://127.0.0.1:9/x", SHA, "x"), tmp_path, attempts=2, pause_s=0.0)


def toy(sources=()):
    """A data set whose games are text files; "broken" in one makes it corrupt."""

    def check(folder):
        bad = [path.name for path in sorted(folder.glob("*.game")) if path.read_text() == "broken"]
        return ImportReport({"games": len(list(folder.glob("*.game")))}, problems=bad)

    def import_dir(src: Path, dest: Path, progress):
        for number, path in enumerate(sorted(src.glob("*.game"))):
            if path.read_text() == "broken":
                raise CorruptData(f"{path.name} is broken")
            (dest / path.name).write_bytes(path.read_bytes())
            progress(number, 0, path.name)
        for path in src.glob("*.zip"):
            (dest / "fetched.game").write_bytes(path.read_bytes()[:10])
        return check(dest)

    return Dataset("toy", "1", import_dir, lambda folder, progress: check(folder), sources)


@pytest.fixture
def games(tmp_path):
    (tmp_path / "games").mkdir()
    for name in ("a", "b"):
        (tmp_path / "games" / f"{name}.game").write_text(name)
    return tmp_path / "games"


def test_import_copies_checks_and_leaves_a_manifest(games, root):
    assert not installed("toy").present
    report = import_data(toy(), games)
    assert report.counts == {"games": 2}
    assert dataset_dir("toy") == root / "toy"
    assert sorted(path.name for path in (root / "toy").iterdir()) == [".agentbench.json", "a.game", "b.game"]
    assert installed("toy").manifest["counts"] == {"games": 2}
    assert installed("toy").manifest["version"] == "1"


def test_a_second_import_needs_replace(games, root):
    import_data(toy(), games)
    (games / "b.game").unlink()
    with pytest.raises(UsageError, match=r"toy is already at .*--replace"):
        import_data(toy(), games)
    assert (root / "toy" / "b.game").exists()
    import_data(toy(), games, replace=True)
    assert sorted(path.name for path in (root / "toy").iterdir()) == [".agentbench.json", "a.game"]


def test_a_failed_import_leaves_the_old_one_and_no_debris(games, root):
    import_data(toy(), games)
    (games / "b.game").write_text("broken")
    with pytest.raises(CorruptData, match=r"b\.game is broken"):
        import_data(toy(), games, replace=True)
    assert (root / "toy" / "b.game").read_text() == "b"
    assert [path.name for path in root.iterdir()] == ["toy"]


def test_import_of_nothing_is_refused(tmp_path, root):
    with pytest.raises(MissingData, match="does not exist"):
        import_data(toy(), tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingData, match="holds no files of toy 1"):
        import_data(toy(), tmp_path / "empty")
    assert not dataset_dir("toy").exists()


def test_verify_names_what_is_broken(games, root):
    with pytest.raises(MissingData, match="agentbench data fetch toy"):
        verify_data(toy())
    import_data(toy(), games)
    assert verify_data(toy()).problems == []
    (root / "toy" / "a.game").write_text("broken")
    assert verify_data(toy()).problems == ["a.game"]


@pytest.mark.parametrize("left", [{}, {"other": 1}])
def test_verify_names_what_was_imported_and_is_gone(games, root, left):
    import_data(toy(), games)
    blind = dataclasses.replace(toy(), verify=lambda folder, progress: ImportReport(left))
    (lost,) = verify_data(blind).problems
    assert lost.startswith(
        "games was imported and is not there any more; run: agentbench data import toy DIR --replace"
    )
    told = dataclasses.replace(toy(), verify=lambda folder, progress: ImportReport({}, problems=["no games"]))
    assert verify_data(told).problems == ["no games"]


def test_a_torn_manifest_is_named(games, root):
    import_data(toy(), games)
    (root / "toy" / data.MANIFEST).write_text('{"data')
    with pytest.raises(CorruptData, match=r"\.agentbench\.json is not JSON"):
        installed("toy")


def test_fetch_downloads_checks_and_imports(server, root):
    item = toy([Source(server.url, SHA, "games.zip")])
    assert fetch_data(item).counts == {"games": 1}
    assert (root / "toy" / "fetched.game").read_bytes() == BODY[:10]
    with pytest.raises(UsageError, match="--replace fetches it again"):
        fetch_data(item)


def test_fetch_says_when_no_checksum_is_published(server):
    report = fetch_data(toy([Source(server.url, "", "games.zip")]))
    assert report.notes == ["games.zip: no published checksum, only its content was checked"]


def test_fetch_without_sources_points_to_import():
    with pytest.raises(UsageError, match="agentbench data import toy DIR"):
        fetch_data(toy())


def test_an_import_clears_away_what_a_killed_one_left(root, games):
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    root.mkdir()
    begin = f".toy-import-{platform.node()}-"
    left = [f"{begin}{killed.pid}-a1", f"{begin}{os.getpid()}-b2", f".toy-import-elsewhere-{killed.pid}-c3"]
    for name in left:
        (root / name).mkdir()
    import_data(toy(), games)
    # the dead one's is gone; a live process and another machine keep theirs
    assert sorted(path.name for path in root.iterdir()) == sorted(["toy", *left[1:]])


def test_the_root_is_the_variable_or_the_platform_cache(monkeypatch, root):
    assert data.data_root() == root
    monkeypatch.delenv("AGENTBENCH_DATA")
    assert data.data_root().parts[-2:] == ("agentbench", "data")


def test_plug_ins_are_loaded_by_name_or_path_and_checked(tmp_path):
    with pytest.raises(UnknownName, match="no dataset 'toyy'"):
        dataset("toyy")
    file = tmp_path / "mine.py"
    file.write_text("THING = 3\n")
    with pytest.raises(ContractError, match="must be a Dataset, got int"):
        dataset(f"{file}:THING")


def test_the_manifest_is_plain_json(games, root):
    import_data(toy(), games)
    found = json.loads((root / "toy" / data.MANIFEST).read_text())
    assert found["source"] == str(games)
