"""Counts checks, and prints which failed."""
import subprocess
import traceback


class Refusal(Exception):
    """A failure whose message is enough: another program refused something."""


class Results:
    """What was checked so far."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, title, action, *arguments):
        """The result of the action, or none if it failed."""
        try:
            result = action(*arguments)
        except (AssertionError, Refusal) as error:
            self.fail(title, error)
            return None
        except (LookupError, StopIteration, TypeError, ValueError, OSError, subprocess.SubprocessError) as error:
            self.fail(title, error)
            traceback.print_exc()
            return None
        self.passed += 1
        return result

    def fail(self, title, error):
        self.failed += 1
        print(f"FAILED {title}: {type(error).__name__}: {error}", flush=True)

    def end(self):
        """Prints the counts; returns the exit status."""
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed else 0
