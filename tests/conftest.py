"""What holds for every test process."""

import os

import cv2
import pytest

# Data workers are forked, and OpenCV's pool of threads does not survive that: a worker would wait for it for ever.
cv2.setNumThreads(1)


@pytest.fixture(autouse=True)
def ordinary_scheduling():
    """Back to ordinary priority after each test: SVT-AV1, with which some clips are made, turns its caller into a
    real-time process where it may (as root), and a browser that this starts would take the cores from all others."""
    yield
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
