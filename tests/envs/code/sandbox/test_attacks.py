"""Hostile programs in every setting that this machine can make: verdict, leaks, time, the next program, leftovers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import SHARED_DATA, TESTS

OWN = TESTS / "envs" / "code" / "hostile"
SCRIPT = TESTS / "support" / "hostile.py"
GIVEN = SHARED_DATA / "code" / "attacks"
NOBODY = 4242
ROOT = os.geteuid() == 0
WRITTEN = (
    "/pwned",
    "/etc/pwned",
    "/usr/lib/pwned",
    "/root/pwned",
    "/home/pwned",
    "/var/tmp/pwned",
    "/tmp/pwned",
)


def everybodys_python():
    """An interpreter of this version that any user can read: this one, else the system's."""
    minor = f"python3.{sys.version_info[1]}"
    for path in (os.path.realpath(sys.executable), shutil.which(minor, path="/usr/bin:/usr/local/bin")):
        if path and all(os.stat(each).st_mode & 0o005 == 0o005 for each in Path(path).parents):
            return path
    pytest.skip(f"no {minor} that another user could read")


def as_user(command):
    """Options of subprocess.run for another user, who finds the packages of this environment."""
    if not ROOT:
        return {"args": command}
    python = everybodys_python()
    places = [path for path in sys.path if path.endswith("site-packages")]
    if not all(
        os.stat(each).st_mode & 0o005 == 0o005 for each in [*map(Path, places), *Path(__file__).parents]
    ):
        pytest.skip("another user could not read this checkout or its packages")
    loader = (
        "import sys, site, runpy; [site.addsitedir(p) for p in sys.argv.pop(1).split(':')]; del sys.argv[0]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return {
        "args": [python, "-B", "-c", loader, ":".join(places), *command[1:]],
        "user": NOBODY,
        "group": NOBODY,
        "extra_groups": [],
        "env": {"PATH": "/usr/bin:/bin", "HOME": "/tmp"},
        "cwd": "/",
    }


def run(*options, user=False, folders=(OWN, GIVEN)):
    command = [sys.executable, str(SCRIPT), *options, *(str(each) for each in folders if each.is_dir())]
    how = as_user(command) if user else {"args": command}
    return subprocess.run(**how, capture_output=True, text=True, timeout=900)


def check(done, *, way):
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["facts"]["isolation"] == way
    assert len(found["rows"]) >= 10
    for row in found["rows"]:
        assert row["verdict"] not in ("passed", "infrastructure"), row
        assert not row["leak"], row
        assert row["next"] == "passed", row
        assert row["seconds"] < 120, row
    # With three judges: a first process, a zygote and at most one more zygote and tester each; never a program.
    assert found["kept"] <= 3 * 6
    assert found["left"] == 0
    assert not any(os.path.exists(path) for path in WRITTEN)


# Name of a setting: (way, as another user, with an interpreter that everybody can read).
SETTINGS = {
    "root": ("root", False, False),
    "plain user with namespaces": ("user", True, False),
    "root with Landlock alone": ("landlock", False, True),
    "plain user with Landlock alone": ("landlock", True, False),
}


def attack(setting, *more):
    way, user, readable = SETTINGS[setting]
    if setting.startswith("root") and not ROOT:
        pytest.skip("needs root")
    python = ["--python", everybodys_python()] if readable else []
    done = run("--isolation", way, *python, *more, user=user)
    if way == "user" and done.returncode == 2:
        pytest.skip(f"this machine has no user namespaces: {done.stderr}")
    check(done, way=way)


@pytest.mark.parametrize("setting", SETTINGS)
def test_hostile_programs(setting):
    attack(setting, "--quick")


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_all_hostile_programs_with_those_that_burn_time(setting):
    attack(setting)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the imitation knows the numbers of x86_64 alone")
@pytest.mark.parametrize("user", [False, True])
def test_in_a_default_container_landlock_is_what_is_left(user):
    if not user and not ROOT:
        pytest.skip("needs root")
    python = [] if user else ["--python", everybodys_python()]
    done = run("--container", "--quick", "--isolation", "auto", *python, user=user, folders=(OWN,))
    check(done, way="landlock")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the imitation knows the numbers of x86_64 alone")
def test_without_any_isolation_programs_are_refused_with_the_reasons():
    done = run("--container", "--isolation", "root" if ROOT else "user", folders=())
    assert done.returncode == 2
    assert "no isolation holds here" in done.stderr
    assert "Operation not permitted" in done.stderr
    assert "--unsafe-no-sandbox" in done.stderr
