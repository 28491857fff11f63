#!/usr/bin/env python3
"""Tests deploy/release/{set-version,check-version,notes}: on this checkout, and on a copy that gets another version.

usage: versions.py [UNITTEST ARGUMENT]...

Needs git and cargo.
"""
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def run(repository, program, *arguments):
    return subprocess.run([repository / "deploy/release" / program, *arguments], capture_output=True, text=True, timeout=60)


def current():
    return re.search(r'^version = "(.+)"', (REPOSITORY / "Cargo.toml").read_text(), re.MULTILINE)[1]


class ThisCheckout(unittest.TestCase):
    def test_each_place_has_the_version(self):
        done = run(REPOSITORY, "check-version")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_notes_are_the_changelogs_section(self):
        changelog = (REPOSITORY / "CHANGELOG.md").read_text()
        section = re.search(rf"^## {re.escape(current())}.*\n\n([\s\S]+?)(?=\n## |\Z)", changelog, re.MULTILINE)[1]
        done = run(REPOSITORY, "notes", current())
        # The same words in the same order: only line breaks differ.
        self.assertEqual(done.stdout.split(), section.split(), done.stderr)
        done = run(REPOSITORY, "notes", current(), "https://example.org/keyhole/")
        self.assertEqual(re.findall(r"\]\((?!https?:)[^)]+\)", done.stdout), [])

    def test_a_version_without_a_section_has_no_notes(self):
        done = run(REPOSITORY, "notes", "9.8.7")
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)

    def test_what_is_no_version_is_refused(self):
        for word in ("v9.8.7", "9.8", "9.8.7+build", "09.8.7", "--help"):
            self.assertEqual(run(REPOSITORY, "set-version", word).returncode, 2, word)


class ACopy(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="keyhole-version-"))
        self.addCleanup(shutil.rmtree, self.directory)
        names = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY,
                               capture_output=True, check=True).stdout.split(b"\0")
        for name in filter(None, map(bytes.decode, names)):
            # Fixtures repeat no version, and are most of the files.
            if not name.startswith(("tests/golden/", "tests/kernels/trees/", "fuzz/regressions/")) and (REPOSITORY / name).is_file():
                (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, self.directory / name)
        self.git("init", "--quiet")
        self.git("add", "--all")

    def git(self, *arguments):
        done = subprocess.run(["git", *arguments], cwd=self.directory, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def faults(self, *arguments):
        done = run(self.directory, "check-version", *arguments)
        lines = done.stdout.splitlines()
        self.assertEqual(done.returncode, 1 if len(lines) > 1 else 0, done.stdout + done.stderr)
        return lines[:-1]

    def edit(self, name, before, after):
        path = self.directory / name
        text = path.read_text()
        self.assertIn(before, text)
        path.write_text(text.replace(before, after, 1))

    def test_set_version_sets_it_everywhere(self):
        done = run(self.directory, "set-version", "9.8.7-rc.1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(set(done.stdout.split()), set(self.git("diff", "--name-only").split()))
        self.assertEqual(self.faults(), ["CHANGELOG.md: no section 9.8.7-rc.1: write ## 9.8.7-rc.1 - YYYY-MM-DD"])
        self.edit("CHANGELOG.md", "## Unreleased\n", "## Unreleased\n\n## 9.8.7-rc.1 - 2027-01-01\n\n- A change.\n")
        self.assertEqual(self.faults("v9.8.7-rc.1"), [])
        self.assertEqual(run(self.directory, "notes", "9.8.7-rc.1").stdout, "- A change.\n")
        # Cargo.lock fits as well.
        cargo = ["cargo", "metadata", "--locked", "--offline", "--no-deps", "--format-version=1"]
        done = subprocess.run(cargo, cwd=self.directory, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = subprocess.run(["cargo", "tree", "--locked", "--offline", "-p", "keyhole-reader", "--depth=0"],
                              cwd=self.directory, capture_output=True, text=True)
        self.assertIn("9.8.7-rc.1", done.stdout, done.stderr)
        # An example in a document or a script is not taken for a place.
        for version in ("1.0.0", "1.2.3", "2.0.0"):
            run(self.directory, "set-version", version)
            self.assertEqual(self.faults(), [f"CHANGELOG.md: no section {version}: write ## {version} - YYYY-MM-DD"])
        # And back again, byte by byte.
        run(self.directory, "set-version", current())
        self.git("checkout", "--quiet", "CHANGELOG.md")
        self.assertEqual(self.git("diff", "--name-only"), "")

    def test_a_place_with_another_version_is_found(self):
        self.edit("deploy/kubernetes/base/kustomization.yaml", f"newTag: {current()}", "newTag: 0.0.9")
        (fault,) = self.faults()
        self.assertRegex(fault, r"^deploy/kubernetes/base/kustomization\.yaml:\d+: 0\.0\.9, and Cargo\.toml has")

    def test_a_place_that_nobody_knows_is_found(self):
        self.edit("README.md", "# Keyhole\n", f"# Keyhole {current()}\n")
        (fault,) = self.faults()
        self.assertRegex(fault, r"^README\.md:1: repeats the version")

    def test_a_place_that_is_missing_leaves_all_others_as_they_are(self):
        self.edit("deploy/systemd/README.md", f"keyhole_{current()}-1_amd64.deb", "keyhole.deb")
        self.git("add", "--all")
        done = run(self.directory, "set-version", "9.8.7")
        self.assertEqual(done.returncode, 1)
        self.assertIn("nothing matches", done.stderr)
        self.assertEqual(self.git("diff", "--name-only"), "")

    def test_without_git_there_is_no_verdict(self):
        shutil.rmtree(self.directory / ".git")
        done = run(self.directory, "check-version")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("git grep", done.stderr)

    def test_a_chart_is_a_place(self):
        chart = self.directory / "deploy/helm/some/Chart.yaml"
        chart.parent.mkdir(parents=True)
        chart.write_text('name: some\nversion: 0.0.9\nappVersion: "0.0.9"\n')
        self.assertEqual(len(self.faults()), 2)
        run(self.directory, "set-version", "9.8.7")
        self.assertEqual(chart.read_text(), 'name: some\nversion: 9.8.7\nappVersion: "9.8.7"\n')

    def test_a_release_needs_its_tag_and_a_finished_changelog(self):
        changelog = self.directory / "CHANGELOG.md"
        changelog.write_text(f"# Changelog\n\n## Unreleased\n\n## {current()} - 2027-01-01\n\n- A change.\n")
        self.assertEqual(self.faults(f"v{current()}"), [])
        self.assertRegex(self.faults("v9.8.7")[0], "^the tag is v9.8.7")
        changelog.write_text(f"# Changelog\n\n## Unreleased\n\n- Another.\n\n## {current()} - 2027-01-01\n\n- A change.\n")
        self.assertRegex(self.faults(f"v{current()}")[0], "lines below Unreleased")
        changelog.write_text(f"# Changelog\n\n## {current()}\n\n- A change.\n")
        self.assertRegex(self.faults(f"v{current()}")[0], "has no date")


if __name__ == "__main__":
    unittest.main()
