"""Provenance: the commit that is recorded is that of the package's own repository."""

import subprocess

from cpvt.results.provenance import commit_of


def test_the_commit_is_recorded_and_marked_where_files_differ(tmp_path):
    def git(*arguments):
        command = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    package, vendored = tmp_path / "src" / "cpvt", tmp_path / "lib" / "cpvt"
    for folder in (package, vendored):
        folder.mkdir(parents=True)
        (folder / "module.py").touch()
    assert commit_of(package) is None  # not a repository
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    assert commit_of(package) == git("rev-parse", "HEAD")
    (tmp_path / "notes.txt").touch()  # outside the package
    assert commit_of(package) == git("rev-parse", "HEAD")
    (package / "module.py").write_text("changed = True")
    assert commit_of(package) == git("rev-parse", "HEAD") + "+"
    assert commit_of(vendored) is None  # a copy inside another repository
