"""The child process of :func:`sama.video.normalise_upload`; reads its task as JSON from standard input."""

import sys

from sama.video.uploads import run_child

if __name__ == "__main__":
    sys.exit(run_child(sys.stdin.read()))
