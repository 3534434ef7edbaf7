"""What holds for every test process."""

import cv2

# Data workers are forked, and OpenCV's pool of threads does not survive that: a worker would wait for it for ever.
cv2.setNumThreads(1)
